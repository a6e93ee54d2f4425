"""Whether programs that compute a network's velocity may run at once, in several threads.

Batched factorizations in concurrent programs deadlock (`compiling.only_after`), and other operations that wait for a
thread of XLA's pool, or for Python, within one of its threads, may. A user's vector field may have any of them.
"""

import functools
from collections.abc import Iterator

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr

from rnn2ff.networks import RateNetwork, RecurrentNetwork

_FACTORIZATIONS = "cholesky eig eigh geqp3 geqrf hessenberg householder_product lu ormqr qr schur svd tridiagonal"
_SOLVES = "triangular_solve tridiagonal_solve"
_CALLBACKS = "debug_callback ffi_call io_callback noinline pure_callback"  # `noinline` is that of equinox
_WAITING = frozenset(f"{_FACTORIZATIONS} {_SOLVES} {_CALLBACKS} conv_general_dilated fft".split())


def may_run_concurrently(network: RecurrentNetwork) -> bool:
    """Whether neither the velocity nor its derivative has an operation that waits; remembered for each structure."""
    if isinstance(network, RateNetwork):
        return True
    leaves, structure = jax.tree.flatten(network)
    return _never_waits(structure, tuple(jax.eval_shape(lambda leaves: leaves, leaves)))


@functools.lru_cache(maxsize=64)
def _never_waits(structure: jax.tree_util.PyTreeDef, leaves: tuple[jax.ShapeDtypeStruct, ...]) -> bool:
    network = jax.tree.unflatten(structure, leaves)

    def velocity_and_derivative(leaves, state, stimulus):
        network = jax.tree.unflatten(structure, leaves)
        return jax.jvp(lambda state: network.velocity(state, stimulus), (state,), (state,))

    arguments = (jax.ShapeDtypeStruct((size,), network.dtype) for size in (network.state_size, network.stimulus_size))
    return _WAITING.isdisjoint(_operations_of(jax.make_jaxpr(velocity_and_derivative)(leaves, *arguments).jaxpr))


def _operations_of(jaxpr: Jaxpr) -> Iterator[str]:
    """The names of all operations, also of those inside loops, branches and calls."""

    def is_jaxpr(value):
        return isinstance(value, Jaxpr | ClosedJaxpr)

    for equation in jaxpr.eqns:
        yield equation.primitive.name
        for value in jax.tree.leaves(list(equation.params.values()), is_leaf=is_jaxpr):
            if is_jaxpr(value):
                yield from _operations_of(getattr(value, "jaxpr", value))
