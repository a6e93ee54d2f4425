"""What should be known about an approximator beside its weights, and which network it stands for."""

from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import ArrayLike, Float

from rnn2ff._checks import fail
from rnn2ff.approximators import Approximator
from rnn2ff.files import plain
from rnn2ff.networks import RecurrentNetwork, name_of, network_hash
from rnn2ff.records import environment


@runtime_checkable
class Distilled(Protocol):
    """What `distill` returns, by what is used of it: to keep an approximator no training has to be loaded."""

    approximator: Approximator
    report: object
    test: object
    network: RecurrentNetwork


def model_card(
    network: RecurrentNetwork,
    stimuli: Float[ArrayLike, "batch stimulus"],
    report: object = None,
    *,
    license: str | None = None,
) -> dict[str, object]:
    """A model card, of nothing but what JSON can say.

    Args:
        network: the network that the approximator stands for.
        stimuli: those it was made for; their number and ranges are described.
        report: how good it is: the report of a distillation, or anything that JSON can say.
        license: under which the weights may be used.
    """
    stimuli = np.asarray(stimuli, np.float64)
    return plain(
        {
            "network": describe(network),
            "stimuli": {
                "num_rows": len(stimuli),
                "smallest": stimuli.min(axis=0),
                "largest": stimuli.max(axis=0),
                "mean": stimuli.mean(axis=0),
                "standard_deviation": stimuli.std(axis=0),
            },
            "report": report.summary() if hasattr(report, "summary") else report,
            "license": license,
            "environment": environment(),
        }
    )


def describe(network: RecurrentNetwork) -> dict[str, object]:
    """Which network it is."""
    return {
        "hash": network_hash(network),
        "vector_field": name_of(network.vector_field),
        "state_size": network.state_size,
        "stimulus_size": network.stimulus_size,
        "rate_size": network.rate_size,
    }


def check_same_network(network: RecurrentNetwork, card: dict[str, object], path: object) -> None:
    """Refuse an approximator whose card names another network, or none.

    Raises:
        ValueError: if it does.
    """
    named = card.get("network")
    received = named.get("hash") if isinstance(named, dict) else None
    expected = network_hash(network)
    if received != expected:
        unnamed = "no network named; `save` a whole distillation, or with `card=model_card(network, stimuli)`"
        other = unnamed if received is None else f"{received[:12]} in {path}"
        raise fail("approximator", "stands for another network", f"one of the network {expected[:12]}", other)
