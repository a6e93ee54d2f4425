"""Experiments: one file per claim. `python -m experiments.NAME` runs it, and saves its record and its figure."""
