"""Pages about neurons."""
