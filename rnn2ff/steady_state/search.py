"""The interface of a solver for one sample: a search, whose result is judged elsewhere."""

from abc import abstractmethod

import equinox as eqx
from jaxtyping import Array, ArrayLike, Bool, Float, Int, Scalar

from rnn2ff.networks import RecurrentNetwork


class Candidate(eqx.Module):
    """The result of a search; for a batch, with a leading axis. The verdict tests its state again."""

    state: Float[ArrayLike, "*batch state"]
    num_steps: Int[ArrayLike, "*batch"]
    is_diverging: Bool[ArrayLike, "*batch"]  # whether the state grew without bound


class AbstractSteadyStateSolver(eqx.Module):
    """A way of searching for the steady state of one sample.

    Attributes:
        tolerance: the largest residual that counts as rest; None for the default of the dtype.
    """

    tolerance: eqx.AbstractVar[float | None]

    @abstractmethod
    def search(
        self,
        network: RecurrentNetwork,
        stimulus: Float[Array, " stimulus"],
        initial_state: Float[Array, " state"],
        *,
        tolerance: float | Scalar,
        max_steps: int,
    ) -> Candidate:
        """Search for a state at rest, without a verdict; the tolerance may be an array, `max_steps` may not."""
