"""Benchmarks: one file per question. `python -m benchmarks.NAME` runs it, and saves its record."""
