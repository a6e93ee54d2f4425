"""How each benchmark is drawn from its record, without JAX: one module a benchmark, `draw(record)` in each."""
