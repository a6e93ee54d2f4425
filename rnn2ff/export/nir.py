"""NIR, the exchange format of neuromorphic tool chains.

NIR has no rectifier. A unit that integrates its input, fires at a threshold and resets to 0 fires at a rate of
`[input]_+` over the threshold, so two rectified layers are represented by spike rates. These are approximate: a unit
that receives spikes instead of a current overshoots its threshold, and the excess is lost at the reset. Many small
spikes lose little, hence `gain`. It is in the weights, and every unit has `r = 1` and a threshold of 1, because readers
refuse or ignore other values. The sweeps of a refined approximator need both signs of a state in one unit, and cannot
be represented.
"""

from pathlib import Path

import numpy as np

from rnn2ff._checks import check_positive, fail, require_extra
from rnn2ff.approximators import Approximator
from rnn2ff.export.plain import plain_arrays
from rnn2ff.files import replacing


def write_nir(path: str | Path, approximator: Approximator, *, gain: float = 100.0) -> None:
    """Write an approximator as a NIR graph of integrate-and-fire units, completely or not at all.

    The stimulus enters as a constant current, and the rates are spikes per unit of time. Where the rates are not
    rectified, they are the time average of the input to the output node.

    Args:
        path: the `.nir` file; an existing one is replaced.
        approximator: a two-layer approximator.
        gain: spikes of a hidden unit per unit of activity and of time; the error of the rates falls as `1 / gain`.

    Raises:
        ValueError: if sweeps refine the pass, `gain` is not positive, or the folder cannot be written to.
        ModuleNotFoundError: if the extra `nir` is not installed.
    """
    require_extra("nir", "nir")
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
        last.append("bypass")  # inputs of a node are summed
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
