"""StableHLO, by `jax.export`: one program for CPUs, GPUs and TPUs, with a dynamic batch and the weights inside.

It stays readable by JAX versions up to six months newer and about one month older, so it is for deployment. For
long-term storage use `save`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import equinox as eqx
import jax
from jax import export
from jaxtyping import Array, Float

from rnn2ff._checks import fail
from rnn2ff.approximators import Approximator
from rnn2ff.export.plain import dtype_of
from rnn2ff.files import sealed, unsealed

PLATFORMS = ("cpu", "cuda", "tpu")


def to_stablehlo(approximator: Approximator, *, platforms: Sequence[str] = PLATFORMS) -> bytes:
    """An approximator as a serialized StableHLO program, stimuli (batch, stimulus) to rates (batch, rate).

    It is lowered for every platform at export, whether or not such a device is present, and keeps the dtype of the
    weights. A hash follows the program, which `jax.export.deserialize` ignores and `load_stablehlo` checks.

    Args:
        approximator: what to export.
        platforms: where it is to run: `cpu`, `cuda`, `rocm`, `tpu`.

    Raises:
        ValueError: if no platform is given, or one is unknown.
    """
    known = (*PLATFORMS, "rocm")
    if not platforms or not set(platforms) <= set(known):
        raise fail("platforms", "are not all known", f"some of {', '.join(known)}", tuple(platforms))
    (batch,) = export.symbolic_shape("batch")
    stimuli = jax.ShapeDtypeStruct((batch, approximator.stimulus_size), dtype_of(approximator))
    # The weights are closed over, and so become constants of the program.
    exported = export.export(jax.jit(jax.vmap(approximator)), platforms=tuple(platforms))(stimuli)
    return sealed(bytes(exported.serialize()))


def load_stablehlo(content: bytes) -> Callable[[Float[Array, "batch stimulus"]], Float[Array, "batch rate"]]:
    """The function that `to_stablehlo` serialized.

    Raises:
        ValueError: if the content is not such a program, was changed, or is too old or too new for this JAX.
    """
    program = unsealed(content)
    if program is None:
        raise fail("content", "is damaged", "what `to_stablehlo` returned", f"{len(content)} bytes with another hash")
    return eqx.filter_jit(export.deserialize(bytearray(program)).call)
