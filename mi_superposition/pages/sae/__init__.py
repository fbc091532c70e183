"""Pages about sparse autoencoders."""
