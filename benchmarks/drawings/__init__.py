"""How each benchmark is drawn from its record, without JAX: one module per benchmark, `draw(record)` in each."""
