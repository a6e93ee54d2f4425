"""Solvers for one sample."""
