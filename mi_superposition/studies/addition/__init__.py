"""Studies of the model that adds."""
