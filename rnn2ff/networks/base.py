"""A recurrent network: a vector field `(params, state, stimulus) -> velocity`, its parameters and two sizes."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, PyTree, Scalar

from rnn2ff._checks import (
    check_at_least,
    check_finite,
    check_positive,
    check_shape,
    check_stimuli,
    fail,
    is_known,
    real_numbers,
)
from rnn2ff.compiling import in_batches

# The right-hand side of `dx/dt = f(params, x, u)`: pure, for one sample.
VectorField = Callable[[PyTree, Float[Array, " state"], Float[Array, " stimulus"]], Float[Array, " state"]]


_BATCH_ENTRIES = 2**18  # entries of the states whose rates one call of a program computes
_NUM_PROBES = 8  # products with the Jacobian that estimate the norms of its rows, to about 1 / sqrt(2 * 8) = 25 %


def state_is_rate(params: PyTree, state: Float[Array, " state"]) -> Float[Array, " state"]:
    """The rate function of a network whose state is already what downstream units see."""
    return state


def _size_called(name: str) -> Callable[[object], int]:
    """Checks that a size is at least 1, and makes it a Python int."""
    return functools.partial(check_at_least, name, smallest=1)


class RecurrentNetwork(eqx.Module):
    """A recurrent network with any vector field.

    A network from the zoo and a user-defined one differ only in this function.

    Attributes:
        vector_field: `(params, state, stimulus) -> velocity`, pure, for one sample.
        params: a pytree of arrays. If it has `time_constants` (an attribute or a key), these are the units' time
            scales; otherwise the scales are estimated from the Jacobian (`time_scales`), so that the unit of time does
            not matter.
        state_size: number of units.
        stimulus_size: number of stimulus channels.
        rate_function: `(params, state) -> rates`, what downstream units see and an approximator learns. By default
            the state itself; it may have fewer entries than the state, where only some units are of interest.
        is_map: whether time is discrete: the next state is `state + velocity`, as in a trained cell. The fixed points
            are those of the flow with the same velocity, but their stability differs: a fixed point is stable if the
            eigenvalues of `I + J` are inside the unit circle. `in_continuous_time` converts a map to the flow.

    Raises:
        ValueError: if the field or the rate function cannot be evaluated for these sizes, the velocity differs from the
            state in shape or dtype, or a time constant is not positive.
    """

    vector_field: VectorField = eqx.field(static=True)
    params: PyTree
    state_size: int = eqx.field(static=True, kw_only=True, converter=_size_called("state_size"))
    stimulus_size: int = eqx.field(static=True, kw_only=True, converter=_size_called("stimulus_size"))
    rate_function: Callable[[PyTree, Array], Array] = eqx.field(static=True, kw_only=True, default=state_is_rate)
    is_map: bool = eqx.field(static=True, kw_only=True, default=False)

    def __new__(cls, vector_field: VectorField | None = None, *args: object, **kwargs: object) -> "RecurrentNetwork":
        """Create a network of the vector field's `network_type`, if it declares one."""
        return eqx.Module.__new__(getattr(vector_field, "network_type", cls))

    def __check_init__(self):
        def evaluate(params, state, stimulus):
            return self.vector_field(params, state, stimulus), self.rate_function(params, state)

        sizes, expected = (self.state_size, self.stimulus_size), "a velocity of the state's shape"
        velocity, rates = check_evaluates("vector_field", evaluate, self.params, *sizes, expected)
        if self.has_time_constants:
            check_positive("time_constants", self._declared_time_constants)
        if not isinstance(velocity, jax.ShapeDtypeStruct) or velocity.shape != (self.state_size,):
            raise fail("vector_field", "returns the wrong shape", (self.state_size,), shapes_and_dtypes(velocity))
        if velocity.dtype != self.dtype:
            raise fail("vector_field", "changes the dtype", self.dtype.name, shapes_and_dtypes(velocity))
        if rates.ndim != 1:
            raise fail("rate_function", "does not return a vector", "one axis", f"shape {rates.shape}")

    @property
    def dtype(self) -> jnp.dtype:
        """The dtype of the parameters, which every result of the network has."""
        return dtype_of(self.params)

    @property
    def has_time_constants(self) -> bool:
        """Whether the parameters declare time constants."""
        return self._declared_time_constants is not None

    @property
    def time_constants(self) -> Float[Array, " state"] | Scalar:
        """Per-unit time constants, in the user's unit of time; 1 if the parameters declare none."""
        declared = self._declared_time_constants
        return jnp.asarray(1.0 if declared is None else declared, self.dtype)

    @property
    def _declared_time_constants(self) -> ArrayLike | None:
        if isinstance(self.params, Mapping):
            return self.params.get("time_constants")
        return getattr(self.params, "time_constants", None)

    def velocity(self, state: Float[Array, " state"], stimulus: Float[Array, " stimulus"]) -> Float[Array, " state"]:
        """dx/dt, in units of the state over units of time; for a map, the change of the state in one step."""
        return self.vector_field(self.params, state, stimulus)

    def jacobian(
        self, state: Float[Array, " state"], stimulus: Float[Array, " stimulus"]
    ) -> Float[Array, "state state"]:
        """The derivative of the velocity with respect to the state, per unit of time; for a map, per step."""
        return jax.jacfwd(self.velocity)(state, stimulus)

    def rates(self, state: Float[Array, " state"]) -> Float[Array, " rate"]:
        """What downstream units see of a state."""
        return self.rate_function(self.params, state)

    @property
    def has_dense_weights(self) -> bool:
        """Whether there is a weight matrix, and it is dense."""
        return False

    @property
    def has_sparse_weights(self) -> bool:
        """Whether there is a weight matrix, and it is sparse."""
        return False

    @property
    def rate_size(self) -> int:
        """Number of rates."""
        state = jax.ShapeDtypeStruct((self.state_size,), self.dtype)
        return eqx.filter_eval_shape(self.rate_function, self.params, state).shape[0]


def dtype_of(params: PyTree) -> jnp.dtype:
    """The dtype of parameters, and of all that is computed with them."""
    arrays = [leaf for leaf in jax.tree.leaves(params) if eqx.is_inexact_array(leaf)]
    return jnp.result_type(*arrays) if arrays else jnp.result_type(float)


def check_evaluates(
    name: str, function: Callable, params: PyTree, state_size: int, stimulus_size: int, expected: str
) -> PyTree:
    """The shapes and dtypes that `(params, state, stimulus) -> results` returns, after checking that it can be called.

    Nothing is computed.
    """
    state, stimulus = (jax.ShapeDtypeStruct((size,), dtype_of(params)) for size in (state_size, stimulus_size))
    try:
        return eqx.filter_eval_shape(function, params, state, stimulus)
    except (TypeError, ValueError, IndexError, KeyError, AttributeError) as error:
        problem = f"failed for a state of {state_size} units and a stimulus of {stimulus_size} channels"
        raise fail(name, problem, expected, repr(error)) from error


def shapes_and_dtypes(tree: PyTree) -> str:
    """As an error shows them."""
    return f"{jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype.name), tree)}"


def batch_rates(network: RecurrentNetwork, states: Float[ArrayLike, "batch state"]) -> Float[Array, "batch rate"]:
    """The rates at many states, computed by one program whatever the batch size."""
    if not len(states) or not all(map(is_known, jax.tree.leaves((network, states)))):
        return jax.vmap(network.rates)(jnp.asarray(states))
    num_rows = int(np.clip(_BATCH_ENTRIES // network.state_size, 16, 2048))
    return jax.device_put(in_batches(_rates, network, (np.asarray(states),), num_rows))


@eqx.filter_jit
def _rates(network: RecurrentNetwork, states: Array) -> Array:
    return jax.vmap(network.rates)(states)


def in_continuous_time(network: RecurrentNetwork) -> RecurrentNetwork:
    """The flow `dx/dt = velocity` in place of the map `x + velocity`; the fixed points stay the same.

    Use it if a trained cell discretizes continuous dynamics. Perturbations that overshoot in the map may decay in the
    flow: `h' = tanh(-3 h)` alternates, `dh/dt = tanh(-3 h) - h` converges.
    """
    return dataclasses.replace(network, is_map=False)


def time_scales(
    network: RecurrentNetwork, state: Float[Array, " state"], stimulus: Float[Array, " stimulus"]
) -> Float[Array, " state"]:
    """The time scale of each unit, in the network's unit of time.

    The declared time constants or, if there are none, one over the norm of each row of the Jacobian, so that results do
    not depend on the unit of time. If a row is zero or not finite, the shortest scale of the other units is used, or 1
    if there is none.

    The norm of row i is estimated from products with a few vectors y of random signs, since `E (J y)_i^2` is its
    square. It is exact for up to 8 units, and too large by at most the ratio of the row's 1-norm to its 2-norm.
    """
    size, dtype = network.state_size, network.dtype
    if network.has_time_constants:
        return jnp.broadcast_to(network.time_constants, (size,))
    if size <= _NUM_PROBES:
        probes = np.eye(size)
    else:
        probes = np.random.default_rng(0).choice([-1.0, 1.0], (_NUM_PROBES, size)) / _NUM_PROBES**0.5

    def push(probe):
        return jax.jvp(lambda state: network.velocity(state, stimulus), (state,), (probe,))[1]

    rows = jnp.linalg.norm(jax.vmap(push)(jnp.asarray(probes, dtype)), axis=0)
    is_known = jnp.isfinite(rows) & (rows > 0)
    largest = jnp.max(jnp.where(is_known, rows, 0))
    return 1 / jnp.where(is_known, rows, jnp.where(largest > 0, largest, 1))


def residual(network: RecurrentNetwork, state: Float[Array, " state"], stimulus: Float[Array, " stimulus"]) -> Scalar:
    """How far a state is from rest: `max |tau dx/dt| / (1 + max |x|)`, dimensionless; tau are the `time_scales`.

    Raises:
        ValueError: if the state or the stimulus does not fit the network.
    """
    check_shape("state", state, (network.state_size,))
    check_shape("stimulus", stimulus, (network.stimulus_size,))
    if not isinstance(state, jax.Array):
        state = as_array(real_numbers("state", state), network.dtype)
    if not isinstance(stimulus, jax.Array):
        stimulus = as_array(real_numbers("stimulus", stimulus), network.dtype)
    drift = time_scales(network, state, stimulus) * network.velocity(state, stimulus)
    return jnp.max(jnp.abs(drift)) / (1 + jnp.max(jnp.abs(state)))


def as_samples(network: RecurrentNetwork, states: ArrayLike, stimuli: ArrayLike) -> tuple[Array, Array]:
    """States and their stimuli in the network's precision, after checking that they fit the network and each other."""
    check_stimuli(states, network.state_size, "states")
    check_stimuli(stimuli, network.stimulus_size)
    check_shape("stimuli", stimuli, (len(states), network.stimulus_size))
    return in_precision("states", states, network.dtype), in_precision("stimuli", stimuli, network.dtype)


def in_precision(name: str, array: ArrayLike, dtype: jnp.dtype) -> Float[Array, "..."]:
    """Convert to a JAX array in the precision of a network, in which all values must be finite."""
    converted = as_array(array, dtype)
    check_finite(name, converted)
    return converted


def as_array(array: ArrayLike, dtype: jnp.dtype | None = None) -> Array:
    """Convert to a JAX array, by default of the default float; one of NumPy on the host, where nothing is compiled."""
    dtype = jax.dtypes.canonicalize_dtype(float) if dtype is None else dtype
    if isinstance(array, jax.Array):
        return jnp.asarray(array, dtype)
    with np.errstate(over="ignore"):
        return jax.device_put(np.array(array, dtype))  # a copy, so that the caller may change the original
