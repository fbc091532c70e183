"""What a model keeps of concepts, measured beside untrained models, random word lists and permuted labels."""
