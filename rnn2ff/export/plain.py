"""An approximator as plain float32 arrays: what every route out of JAX starts from.

    h = [W1 u + b1]_+,    x = W2 h + b2 (+ V u)

and, where sweeps refine the pass, with `d = A u + c` made once, for each of them

    x+ = x + a (d + R ([x]_+ - D x) - x) + m (x - x_before).

The rates are `[x]_+`, or x itself where they are not rectified.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from rnn2ff.approximators import TwoLayer


class PlainSweeps(NamedTuple):
    """What the sweeps of a refined approximator need.

    Attributes:
        drive_weights: A.
        drive_bias: c.
        recurrent_weights: R, from column to row.
        slopes: the diagonal of D.
        steps: a, one for each sweep.
        momenta: m, one for each sweep.
    """

    drive_weights: Float[np.ndarray, "state stimulus"]
    drive_bias: Float[np.ndarray, " state"]
    recurrent_weights: Float[np.ndarray, "state state"]
    slopes: Float[np.ndarray, " state"]
    steps: Float[np.ndarray, " sweep"]
    momenta: Float[np.ndarray, " sweep"]


class Plain(NamedTuple):
    """An approximator as plain arrays.

    Attributes:
        hidden_weights: W1.
        hidden_bias: b1.
        readout_weights: W2.
        readout_bias: b2.
        bypass_weights: V, or None.
        is_rectified: whether the rates are `[x]_+`.
        sweeps: what refines the pass, or None.
        rate_size: number of rates, which are those of the first units where there are more states.
    """

    hidden_weights: Float[np.ndarray, "width stimulus"]
    hidden_bias: Float[np.ndarray, " width"]
    readout_weights: Float[np.ndarray, "state width"]
    readout_bias: Float[np.ndarray, " state"]
    bypass_weights: Float[np.ndarray, "state stimulus"] | None
    is_rectified: bool
    sweeps: PlainSweeps | None
    rate_size: int

    @property
    def stimulus_size(self) -> int:
        """Number of stimulus channels."""
        return self.hidden_weights.shape[1]

    @property
    def width(self) -> int:
        """Number of hidden units."""
        return self.hidden_weights.shape[0]

    @property
    def state_size(self) -> int:
        """Number of outputs of the pass."""
        return self.readout_weights.shape[0]

    @property
    def num_products(self) -> int:
        """Multiplications of weights in one evaluation, whatever the stimulus."""
        matrices = [self.hidden_weights, self.readout_weights, self.bypass_weights]
        count = sum(matrix.size for matrix in matrices if matrix is not None)
        if self.sweeps is None:
            return count
        return count + self.sweeps.drive_weights.size + len(self.sweeps.steps) * self.sweeps.recurrent_weights.size


def plain_arrays(approximator: TwoLayer) -> Plain:
    """The arrays of an approximator, in float32, as the runtimes that follow want them."""
    return Plain(
        hidden_weights=_float32(approximator.hidden_weights),
        hidden_bias=_float32(approximator.hidden_bias),
        readout_weights=_float32(approximator.readout_weights),
        readout_bias=_float32(approximator.readout_bias),
        bypass_weights=None if approximator.bypass_weights is None else _float32(approximator.bypass_weights),
        is_rectified=approximator.is_rectified,
        sweeps=None,
        rate_size=approximator.rate_size,
    )


def _float32(array: object) -> Float[np.ndarray, "..."]:
    return np.ascontiguousarray(array, np.float32)
