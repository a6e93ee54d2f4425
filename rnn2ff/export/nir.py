"""NIR, the exchange format of neuromorphic tool chains.

NIR has no rectifier. A unit that integrates its input, fires at a threshold of 1 and starts again from 0 fires at the
rate `[input]_+`, so two rectified layers fit as spike rates: exact for infinitely fine time and long counts, with
rounding by whole spikes in any real run. A linear readout fits exactly. The sweeps of a refined approximator do not
fit, because they need both signs of the state in one unit.
"""

from pathlib import Path

import numpy as np

from rnn2ff._checks import fail
from rnn2ff.approximators import Approximator
from rnn2ff.export.extras import needs_extra
from rnn2ff.export.plain import plain_arrays
from rnn2ff.files import replacing


@needs_extra("nir", "nir")
def write_nir(path: str | Path, approximator: Approximator) -> None:
    """Write an approximator as a NIR graph of integrate-and-fire units, whole or not at all.

    The stimulus enters as a constant current. Rates, of hidden and of rectified output units, are spikes per unit of
    time; where the rates are not rectified, the output is the mean of the last `Affine` over time.

    Args:
        path: the `.nir` file; what stands there is replaced.
        approximator: a two-layer approximator.

    Raises:
        ValueError: if sweeps refine the pass, or the folder cannot be written to.
        ModuleNotFoundError: if the extra `nir` is not installed.
    """
    import nir

    plain = plain_arrays(approximator)
    if plain.sweeps is not None:
        raise fail("approximator", "does not fit NIR", "two layers", "sweeps, which need both signs of a state")
    nodes = {
        "stimulus": nir.Input(np.array([plain.stimulus_size])),
        "hidden_input": nir.Affine(plain.hidden_weights, plain.hidden_bias),
        "hidden": _firing(plain.width),
        "rate_input": nir.Affine(plain.readout_weights, plain.readout_bias),
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
        edges += [(each, "firing") for each in last]
        last = ["firing"]
    edges += [(each, "rates") for each in last]
    with replacing(path) as temporary:
        nir.write(temporary, nir.NIRGraph(nodes, edges))


def _firing(size: int):
    """Units that fire at the rate of their input."""
    import nir

    return nir.IF(r=np.ones(size), v_threshold=np.ones(size), v_reset=np.zeros(size))
