"""Pages about attention heads."""
