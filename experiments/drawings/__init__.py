"""How each experiment is drawn from its record, without JAX: one module per experiment, `draw(record)` in each."""
