"""Benchmarks: one file per question. `python -m benchmarks.NAME` runs it; the record stays."""
