"""Runs: their folders, training, evaluation, summaries and pictures; the cells of a table are runs too."""
