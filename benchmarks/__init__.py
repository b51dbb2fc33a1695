"""Benchmarks of time, memory and variance: ``python -m benchmarks.NAME``."""
