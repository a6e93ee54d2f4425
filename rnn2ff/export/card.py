"""Model cards: which network an approximator stands for, for which stimuli, and how good it is."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import ArrayLike, Float

from rnn2ff._checks import check_stimuli, check_text, fail
from rnn2ff.approximators import Approximator
from rnn2ff.files import plain
from rnn2ff.networks import RecurrentNetwork, name_of, network_hash
from rnn2ff.records import environment, in_percent

_MOST_FINGERPRINTS = 256  # rows: a card of 4 kB, and a share with a standard error of at most 1 / (2 sqrt(256)) = 3 %


@runtime_checkable
class Distilled(Protocol):
    """The fields of what `distill` returns that are used here, so that saving need not load the training code."""

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
    """A model card, as a dictionary for JSON.

    Args:
        network: the network that the approximator stands for.
        stimuli: those it was made for; the card has their number and ranges, and fingerprints of some of them.
        report: how good it is: the report of a distillation, whose stimulus range then goes into the card, or any
            JSON-serializable content.
        license: the license under which the weights may be used.
    """
    check_stimuli(stimuli, network.stimulus_size)
    if license is not None:
        check_text("license", license)
    stimuli = np.asarray(stimuli, np.float64)
    rows = np.unique(np.linspace(0, len(stimuli) - 1, _MOST_FINGERPRINTS).astype(int))
    smallest, largest = getattr(report, "stimulus_range", (stimuli.min(axis=0), stimuli.max(axis=0)))
    return plain(
        {
            "network": describe(network),
            "stimuli": {
                "num_rows": len(stimuli),
                "smallest": smallest,
                "largest": largest,
                "mean": stimuli.mean(axis=0),
                "standard_deviation": stimuli.std(axis=0),
                "some_rows": _fingerprints(stimuli[rows]),
            },
            "report": report.summary() if hasattr(report, "summary") else report,
            "license": license,
            "environment": environment(),
        }
    )


def describe(network: RecurrentNetwork) -> dict[str, object]:
    """The identity of a network."""
    return {
        "hash": network_hash(network),
        "vector_field": name_of(network.vector_field),
        "state_size": network.state_size,
        "stimulus_size": network.stimulus_size,
        "rate_size": network.rate_size,
    }


class Familiarity(NamedTuple):
    """How stimuli compare with those that an approximator was made for."""

    share_known: float  # of the rows that the card has fingerprints of, the share that is among the stimuli
    share_outside: float  # of the stimuli, the share with a channel outside the range that the card names


def familiarity(card: dict[str, object], stimuli: Float[ArrayLike, "batch stimulus"]) -> Familiarity | None:
    """Compare stimuli with those that a card describes; None if it describes none."""
    described = card.get("stimuli")
    if not isinstance(described, dict) or "some_rows" not in described:
        return None
    stimuli = np.asarray(stimuli, np.float32)
    known = set(described["some_rows"]) & set(_fingerprints(stimuli))
    outside = share_outside(np.asarray([described["smallest"], described["largest"]], np.float64), stimuli)
    return Familiarity(len(known) / len(set(described["some_rows"])), outside)


def share_outside(
    stimulus_range: Float[ArrayLike, "2 stimulus"],
    stimuli: Float[ArrayLike, "batch stimulus"],
) -> float:
    """The share of stimuli with a channel outside a range (smallest and largest values), compared in float32."""
    (low, high), stimuli = np.asarray(stimulus_range, np.float32), np.asarray(stimuli, np.float32)
    return float((~((stimuli >= low) & (stimuli <= high))).any(axis=1).mean())


def stated_error(card: Mapping[str, object]) -> dict[str, str]:
    """The error of an approximator as its card states it, by name: the error, its tails, and what was tested on.

    Empty if the card states no error; if it states the error alone, the text says that the tails are not in the card.
    """
    from rnn2ff.training import Accuracy

    report = card.get("report")
    report = report if isinstance(report, Mapping) else {}
    received = report.get("accuracy")
    if not isinstance(received, Mapping) or received.get("nrmse") is None:
        return {}
    if set(received) != set(Accuracy._fields):
        return {"error": f"{in_percent(received['nrmse'])} % (NRMSE); its tails are not in the card"}
    # JSON has no infinite numbers: the infinite error of a unit that should never vary is stored as null.
    of_units = [math.inf if error is None else error for error in received["unit_nrmse"]]
    accuracy = Accuracy(**{**received, "unit_nrmse": np.asarray(of_units)})
    counts = (report.get("status_counts") or {}).get("test") or {"converged": accuracy.num_samples}
    lines = {"error": accuracy.headline(sum(counts.values())), **accuracy.lines()}
    return lines | ({"tested on": report["tested_on"]} if "tested_on" in report else {})


def _fingerprints(stimuli: Float[np.ndarray, "batch stimulus"]) -> list[str]:
    """A hash of each row, converted to float32 so that it is the same in either precision."""
    return [hashlib.sha256(row.tobytes()).hexdigest()[:16] for row in np.ascontiguousarray(stimuli, np.float32)]


def check_same_network(network: RecurrentNetwork, card: dict[str, object], path: object) -> None:
    """Refuse an approximator whose card names another network, or none."""
    named = card.get("network")
    received = named.get("hash") if isinstance(named, dict) else None
    expected = network_hash(network)
    if received != expected:
        unnamed = "no network named; `save` a whole distillation, or with `card=model_card(network, stimuli)`"
        text = unnamed if received is None else f"{received[:12]} in {path}"
        raise fail("approximator", "stands for another network", f"one of the network {expected[:12]}", text)
