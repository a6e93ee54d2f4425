"""NIR, the exchange format of neuromorphic tool chains.

NIR has no rectifier. A unit that integrates its input, fires at a threshold and starts again from 0 fires at a rate of
`[input]_+` over the threshold, so two rectified layers fit as spike rates. They are not exact: a unit that hears spikes
instead of a current passes its threshold in a jump, and loses what is beyond it. Many small spikes lose little, which
is what `gain` is for. It is in the weights, and every unit has `r = 1` and a threshold of 1: readers refuse or overlook
other values. The sweeps of a refined approximator do not fit, because they need both signs of a state in one
unit.
"""

from pathlib import Path

import numpy as np

from rnn2ff._checks import check_positive, fail
from rnn2ff.approximators import Approximator
from rnn2ff.export.extras import needs_extra
from rnn2ff.export.plain import plain_arrays
from rnn2ff.files import replacing


@needs_extra("nir", "nir")
def write_nir(path: str | Path, approximator: Approximator, *, gain: float = 100.0) -> None:
    """Write an approximator as a NIR graph of integrate-and-fire units, whole or not at all.

    The stimulus enters as a constant current, and the rates are spikes per unit of time. Where the rates are not
    rectified, they are the mean of what reaches the output over time.

    Args:
        path: the `.nir` file; what stands there is replaced.
        approximator: a two-layer approximator.
        gain: how many spikes of a hidden unit stand for its activity of 1, for one unit of time; the error of the rates
            falls as `1 / gain`.

    Raises:
        ValueError: if sweeps refine the pass, `gain` is not positive, or the folder cannot be written to.
        ModuleNotFoundError: if the extra `nir` is not installed.
    """
    import nir

    check_positive("gain", gain)
    plain = plain_arrays(approximator)
    if plain.sweeps is not None:
        raise fail("approximator", "does not fit NIR", "two layers", "sweeps, which need both signs of a state")
    nodes = {
        "stimulus": nir.Input(np.array([plain.stimulus_size])),
        "hidden_input": nir.Affine(plain.hidden_weights * np.float32(gain), plain.hidden_bias * np.float32(gain)),
        "hidden": _firing(plain.width),
        "rate_input": nir.Affine(plain.readout_weights / np.float32(gain), plain.readout_bias),
        "rates": nir.Output(np.array([plain.rate_size])),
    }
    edges = [("stimulus", "hidden_input"), ("hidden_input", "hidden"), ("hidden", "rate_input")]
    last = ["rate_input"]
    if plain.bypass_weights is not None:
        nodes["bypass"] = nir.Linear(plain.bypass_weights)
        edges.append(("stimulus", "bypass"))
        last.append("bypass")  # what arrives at a node from several others is added up
    if plain.is_rectified:
        nodes["firing"] = _firing(plain.rate_size)
        edges += [(node, "firing") for node in last]
        last = ["firing"]
    edges += [(node, "rates") for node in last]
    with replacing(path) as temporary:
        nir.write(temporary, nir.NIRGraph(nodes, edges))


def _firing(size: int):
    """Units that fire at the rate of their input."""
    import nir

    return nir.IF(r=np.ones(size), v_threshold=np.ones(size), v_reset=np.zeros(size))
