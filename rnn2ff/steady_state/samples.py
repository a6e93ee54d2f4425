"""A batch on the host, while the engine and later methods work on it."""

from typing import NamedTuple

import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float, Int

from rnn2ff.networks import RecurrentNetwork
from rnn2ff.steady_state.result import Status, SteadyState, in_one_piece, put_rows
from rnn2ff.steady_state.rows import Solved

_FOLLOWED_STEPS = 1200  # before a sample that has not come to rest is watched for cycles


class Samples(NamedTuple):
    """A batch on the host; arrays are changed in place.

    Attributes:
        network: the network.
        stimuli: one per row.
        initial_states: one per row; None where all are zero.
        tolerance: the largest residual that counts as rest.
        max_steps: of each method.
        solved: the fields of `SteadyState`.
        found_by: an index into `FOUND_BY` for each sample.
        mesh: the devices; None for JAX's own.
        watch: whether samples that do not come to rest are watched.
    """

    network: RecurrentNetwork
    stimuli: Float[np.ndarray, "batch stimulus"]
    initial_states: Float[np.ndarray, "batch state"] | None
    tolerance: float
    max_steps: int
    solved: SteadyState
    found_by: Int[np.ndarray, " batch"]
    mesh: Mesh | None
    watch: bool

    @property
    def first_steps(self) -> int:
        """Engine steps before a sample that still moves is watched, or left: later, long steps may lead elsewhere."""
        return min(self.max_steps, _FOLLOWED_STEPS)

    def starts(self, rows: np.ndarray) -> Float[np.ndarray, "row state"]:
        """The initial states of some rows."""
        if self.initial_states is None:
            return np.zeros((len(rows), self.network.state_size), self.network.dtype)
        return self.initial_states[in_one_piece(rows)]

    def rows_that(self, ended: Status, rows: np.ndarray) -> np.ndarray:
        """Those of some rows that ended with this status."""
        return rows[self.solved.status[rows] == ended]

    def put(self, rows: np.ndarray, part: Solved) -> None:
        """Write the results of some rows."""
        put_rows(self.solved, rows, part.steady)
        self.found_by[rows] = part.found_by
