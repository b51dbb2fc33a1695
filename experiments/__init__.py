"""Experiments that reproduce published results: ``python -m experiments.NAME``."""
