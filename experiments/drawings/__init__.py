"""How each experiment is drawn from its record, without JAX: one module an experiment, `draw(record)` in each."""
