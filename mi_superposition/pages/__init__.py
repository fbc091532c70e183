"""Finished run folders, shown: the words, tables, figures and pages of every study. Nothing is measured here."""
