"""The study of concepts in a model, compared with untrained models, random word lists and permuted labels."""
