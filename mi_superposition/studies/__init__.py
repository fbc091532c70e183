"""Whole studies: measurements with their controls, the words and figures that show them, and their run folders.

Above the subjects and the figures, below the report: the one place that knows both what was measured and how it is
told.
"""
