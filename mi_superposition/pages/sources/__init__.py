"""What became of the sources' claims, as pages."""
