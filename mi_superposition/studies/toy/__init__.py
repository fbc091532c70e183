"""Studies of toy models: ``toy train``, and the nine studies of ``toy study``, one module each."""
