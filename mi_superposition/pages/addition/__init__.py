"""Pages about the model that adds."""
