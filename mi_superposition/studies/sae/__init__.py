"""Sparse autoencoders: trained into run folders, evaluated beside their baselines, told on a page."""
