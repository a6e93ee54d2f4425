"""What the benchmarks share: problems and targets, what competes on them, how time is taken, tables and marks."""
