"""Whole studies: measurements with their controls, written to run folders and read back from them.

Knows neither figures nor pages: ``mi_superposition.pages`` shows what is measured here.
"""
