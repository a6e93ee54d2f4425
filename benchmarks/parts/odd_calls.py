"""Calls of public functions with unexpected arguments, and their allowed outcomes."""

import warnings
from collections.abc import Sequence

import jax
import numpy as np
import scipy.sparse

from benchmarks.parts.odd_arguments import odd
from benchmarks.parts.public_calls import CALLS
from benchmarks.parts.trials import IN_ONE_SENTENCE, in_turns

FAULTS = ("another error", "no sentence", "wrong answer")
# Types of arguments that may be replaced; networks, layers, solvers and forms are not.
_PLAIN = (np.ndarray, jax.Array, int, float, str, tuple, list, dict, scipy.sparse.csr_array)


def call(name: str, rng: np.random.Generator) -> tuple[str, str]:
    """Call a function with one or two odd arguments; returns the outcome, and a description of the call."""
    chosen = CALLS[name]
    arguments = chosen.arguments()
    changed = {}
    plain = [
        argument for argument, value in arguments.items() if isinstance(value, _PLAIN) and not isinstance(value, bool)
    ]
    for argument in rng.choice(plain, size=min(len(plain), 1 + int(rng.integers(2))), replace=False):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # overflows in conversions
            changed[str(argument)], arguments[argument] = odd(arguments[argument], rng)
    description = f"{name}({', '.join(f'{argument}: {what}' for argument, what in changed.items())})"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            warnings.simplefilter("ignore", UserWarning)
            result = chosen.function(**arguments)
            jax.block_until_ready(jax.tree.leaves(result))
    except (ValueError, RuntimeError) as error:
        has_form = IN_ONE_SENTENCE.match(str(error)) or type(error) is RuntimeError
        return ("refused", description) if has_form else ("no sentence", f"{description}: {error!r:.300}")
    except Exception as error:  # any other error is a fault to report
        return "another error", f"{description}: {error!r:.300}"
    wrong = None if chosen.check is None else chosen.check(result, arguments)
    return ("answered", description) if wrong is None else ("wrong answer", f"{description}: {wrong}")


def attack(num_calls: int, seed: int, names: Sequence[str] = tuple(CALLS)) -> list[dict]:
    """Call functions in turns, and count the outcomes."""
    return in_turns(call, names, num_calls, seed, FAULTS)
