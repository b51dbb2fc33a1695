"""What measures time and memory: ``python -m benchmarks.NAME``."""
