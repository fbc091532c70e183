"""Studies of neurons."""
