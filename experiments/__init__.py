"""Commands that reproduce published results: ``python -m experiments.NAME``, one module each."""
