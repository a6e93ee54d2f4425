"""What the attacks of `robustness` share: trials in turns, and the form that every refusal must have."""

import itertools
import re
from collections.abc import Callable, Sequence

import numpy as np

IN_ONE_SENTENCE = re.compile(r"`[^`]+` .*Expected .*, got .*\.$", re.DOTALL)  # the form of every refusal


def in_turns(
    attempt: Callable[[str, np.random.Generator], tuple[str, object]],
    names: Sequence[str],
    number: int,
    seed: int,
    faults: Sequence[str],
) -> list[dict]:
    """Run trials in turns, and count the outcomes of each; a fault is listed with the seed that reproduces it."""
    rows = {name: {"what": name, "counts": {}, "faults": []} for name in names}
    for index, name in zip(range(number), itertools.cycle(names)):
        what, detail = attempt(name, np.random.default_rng([seed, index]))
        row = rows[name]
        row["counts"][what] = row["counts"].get(what, 0) + 1
        if what in faults:
            row["faults"].append({"seed": [seed, index], "what": what, "detail": detail})
    return list(rows.values())
