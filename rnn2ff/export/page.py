"""An interactive web page: a recurrent network that settles, beside the prediction of the approximator.

One file, with the weights of both networks and no external resources: plain JavaScript, tested against JAX.
"""

import base64
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from string import Template
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import ArrayLike, Float

from rnn2ff import __version__
from rnn2ff._checks import check_stimuli, fail
from rnn2ff.approximators import Approximator, predict
from rnn2ff.export.plain import check_first_rates, dtype_of, plain_arrays, template
from rnn2ff.files import write_whole
from rnn2ff.networks import RATE_FORM, RecurrentNetwork

_NUM_ROWS = 40  # stimuli that the page can step through
_MOST_LABELS, _FEW_LABELS = 30, 12  # beneath bars
_RING_NOISE = 0.2  # standard deviation, where the page opens


class Scene(NamedTuple):
    """A network and its approximator, on a page.

    Attributes:
        title: on the button that opens the scene.
        text: what the reader should know about the network.
        network: a threshold-linear network.
        approximator: of its steady rates.
        stimuli: one per row; the page steps through the first 40 and takes its ranges from all.
        nrmse: the approximator's error on fresh stimuli, or None.
        kind: `bars`, each dragged by itself, or `ring`, a bump that is dragged around a circle.
        num_labeled: units labeled by a number; the others are labeled as inhibitory. By default all.
        tails: lines beside the error: the share of stimuli it covers, the worst unit and stimuli, what was tested on.
    """

    title: str
    text: str
    network: RecurrentNetwork
    approximator: Approximator
    stimuli: Float[ArrayLike, "batch stimulus"]
    nrmse: float | None = None
    kind: Literal["bars", "ring"] = "bars"
    num_labeled: int | None = None
    tails: Sequence[str] = ()


def write_page(path: str | Path, scenes: Sequence[Scene]) -> None:
    """Write the page, completely or not at all.

    Args:
        path: the `.html` file; an existing one is replaced.
        scenes: the scenes that the reader can choose from; the first is shown at the start.

    Raises:
        ValueError: if there is no scene, a network is not threshold-linear or is a map, its approximator or stimuli do
            not fit, or the folder cannot be written to.
    """
    if not scenes:
        raise fail("scenes", "are missing", "at least one", "none")
    # Without a "<", no title or text can end the element that the data are in, or begin a comment or another in it.
    data = json.dumps([_record(scene) for scene in scenes], allow_nan=False).replace("<", "\\u003c")
    page = template("page.html")
    write_whole(path, page.substitute(data=data, version=__version__, policy=_policy(page.template)))


def _policy(page: str) -> str:
    """What a browser may do for the page: run its own script, apply its own styles, and fetch nothing."""
    script = Template(page.partition("<script>")[2].partition("</script>")[0]).substitute()
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; base-uri 'none'"


def _record(scene: Scene) -> dict[str, object]:
    """A scene, for JSON."""
    network, approximator = scene.network, scene.approximator
    check_first_rates(network)
    if network.is_map:
        expected = "dynamics in continuous time, which the page follows (`in_continuous_time`)"
        raise fail("network", "is a map", expected, "time in steps")
    check_stimuli(scene.stimuli, network.stimulus_size)
    received = (approximator.stimulus_size, approximator.rate_size)
    if received != (network.stimulus_size, network.rate_size):
        expected = f"{network.stimulus_size} channels and {network.rate_size} rates"
        raise fail("approximator", "does not fit the network", expected, f"{received[0]} and {received[1]}")
    stimuli = np.asarray(scene.stimuli, dtype_of(approximator))
    params, model = network.params, plain_arrays(approximator)
    stimulus_weights = params.stimulus_weights
    rates = np.asarray(predict(approximator, jax.device_put(stimuli)))
    low, high = np.quantile(stimuli, [0.001, 0.999]).tolist()  # the axes; rarer values are drawn at their ends
    record = {
        "title": scene.title,
        "text": scene.text,
        "kind": scene.kind,
        "nrmse": scene.nrmse,
        "tails": list(scene.tails),
        "num_products": approximator.num_products,
        "network": {
            "form": "rate" if network.vector_field == RATE_FORM else "state",
            "rate_size": network.rate_size,
            "recurrent_weights": _packed(network.dense_weights),
            "stimulus_weights": None if stimulus_weights is None else _packed(stimulus_weights),
            "bias": _packed(params.bias),
            "time_constants": _packed(params.time_constants),
        },
        "constants": _constants(network),
        "approximator": _packed_all(model),
        "rows": [_packed(row) for row in stimuli[:_NUM_ROWS]],
        "stimulus_range": [min(0.0, low), high],
        "stimulus_labels": _labels(network.stimulus_size, None),
        "rate_labels": _labels(network.rate_size, scene.num_labeled),
        "largest_rate": 1.1 * float(np.quantile(rates.max(axis=1), 0.95)) or 1.0,
    }
    if scene.kind == "ring":
        record |= {"bump": {"angle": 0.8, "contrast": 1.0, "noise": _RING_NOISE}, "modulation": 0.3}
    return record


def _constants(network: RecurrentNetwork) -> dict[str, object]:
    """The constants that certificates need, for the network as it is stored in the page."""
    from rnn2ff.certificates import make_certifier

    stored = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), network)
    certifier = make_certifier(stored)
    return {"monotonicity": float(certifier.monotonicity), "metric_root": _packed(certifier.metric_root)}


def _labels(size: int, num_labeled: int | None) -> list[str]:
    """A number for each unit, or for some units if there are many, and a word for inhibitory ones."""
    between = 1 if size <= _MOST_LABELS else -(-size // _FEW_LABELS)
    labels = [str(i + 1) if i % between == 0 else "" for i in range(size)]
    return labels if num_labeled is None else labels[:num_labeled] + ["inh."] * (size - num_labeled)


def _packed_all(record: tuple) -> dict[str, object]:
    """A named tuple of arrays, numbers and named tuples."""
    packed = {}
    for name, value in record._asdict().items():
        if isinstance(value, np.ndarray):
            packed[name] = _packed(value)
        else:
            packed[name] = _packed_all(value) if hasattr(value, "_asdict") else value
    return packed


def _packed(array: ArrayLike) -> dict[str, object]:
    """An array as base64 of float32, little endian, and its shape."""
    array = np.ascontiguousarray(array, "<f4")
    return {"shape": list(array.shape), "base64": base64.b64encode(array.tobytes()).decode()}
