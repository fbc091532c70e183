"""Pages of effective ranks."""
