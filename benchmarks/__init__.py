"""Benchmarks: ``python -m benchmarks`` for the peers, ``python -m benchmarks.NAME`` for the others."""
