"""Effective rank of the layers of image classifiers and of language models."""
