"""Pages about concepts."""
