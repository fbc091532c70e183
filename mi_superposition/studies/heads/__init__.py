"""Studies of attention heads."""
