"""Experiments: one file per claim. `python -m experiments.NAME` runs it; the record and the figure stay."""
