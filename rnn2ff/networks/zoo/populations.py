"""Two populations: weights two by two, from column to row, excitatory first, inhibitory ones negative."""

import numpy as np
from jaxtyping import ArrayLike

from rnn2ff._checks import check_array, fail, is_known


def check_two_populations(weights: ArrayLike) -> None:
    """Two by two, with a non-negative excitatory column and a non-positive inhibitory one."""
    check_array("weights", weights, (2, 2))
    if is_known(weights) and (np.asarray(weights) * [1, -1] < 0).any():
        expected = "a first column (excitatory) of at least 0 and a second (inhibitory) of at most 0"
        raise fail("weights", "have the wrong signs", expected, np.asarray(weights).tolist())
