"""Whether programs that compute a network's velocity may run at once, in several threads.

Batched factorizations in concurrent programs deadlock (`compiling.only_after`), and what waits for a thread of XLA's
pool, or for Python, within one of its threads, may. A user's vector field or nonlinearity may do any of
these. XLA's own code for arithmetic, products, loops and branches does not wait; whatever else there is shows in the
lowered program.
"""

import functools

import jax

from rnn2ff.networks import RateNetwork, RecurrentNetwork

# Modules whose nonlinearities do not wait; for others a program is lowered, which takes some 50 ms of a first call.
_KNOWN = ("jax.numpy", "jax.nn", "jax._src.nn", "jax._src.numpy", "rnn2ff.")
# LAPACK, callbacks and all foreign functions are custom calls.
_MAY_WAIT = ("custom_call", "cholesky", "convolution", "fft", "triangular_solve")


def may_run_concurrently(network: RecurrentNetwork) -> bool:
    """Whether neither the velocity nor its derivative has an operation that waits; remembered for each structure."""
    if isinstance(network, RateNetwork):
        module = getattr(network.nonlinearity, "__module__", None)
        if module is not None and module.startswith(_KNOWN):
            return True
    leaves, structure = jax.tree.flatten(network)
    return _never_waits(structure, tuple(map(jax.typeof, leaves)), network.dtype)


@functools.lru_cache(maxsize=64)
def _never_waits(structure: jax.tree_util.PyTreeDef, types: tuple[jax.core.ShapedArray, ...], dtype) -> bool:
    def velocity_and_derivative(leaves, states, stimuli):
        network = jax.tree.unflatten(structure, leaves)
        # Of a batch, as the engine has it, since a function may have a rule of its own for batches.
        velocity = jax.vmap(network.velocity)
        return jax.jvp(lambda states: velocity(states, stimuli), (states,), (states,))

    leaves = [jax.ShapeDtypeStruct(each.shape, each.dtype, weak_type=each.weak_type) for each in types]
    network = jax.tree.unflatten(structure, leaves)
    rows = (jax.ShapeDtypeStruct((2, size), dtype) for size in (network.state_size, network.stimulus_size))
    program = jax.jit(velocity_and_derivative).lower(leaves, *rows).as_text()
    return not any(f"stablehlo.{operation}" in program for operation in _MAY_WAIT)
