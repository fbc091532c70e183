"""Pages about toy models: of a training, of each of the nine studies, and the report's chapter."""
