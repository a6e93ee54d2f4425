"""Rate networks with a weight matrix, `tau dx/dt = -x + W phi(x) + B u + b`.

That is the state form. In the rate form, `tau dr/dt = -r + phi(W r + B u + b)`, the state is the rate itself. The two
share their steady states: `r* = phi(x*)` and `x* = W r* + B u + b`. As their structure is known, they have faster
solvers and stronger certificates than a vector field that can only be evaluated.
"""

from __future__ import annotations

import dataclasses
import importlib
import sys
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.sparse import BCOO, BCSR, JAXSparse
from jaxtyping import Array, ArrayLike, Float

from rnn2ff._checks import check_array, check_positive, check_units, check_weights, fail, is_known, shape_of
from rnn2ff.networks.base import RecurrentNetwork, as_array, in_precision, state_is_rate
from rnn2ff.networks.nonlinearities import Nonlinearity


class RateParams(eqx.Module):
    """Parameters of a rate network.

    Attributes:
        recurrent_weights: W, from column to row; dense or sparse.
        stimulus_weights: B, or None where the stimulus drives each unit directly.
        bias: b, a constant input to each unit.
        time_constants: tau, in any unit of time.
    """

    recurrent_weights: Float[Array, "state state"] | JAXSparse
    stimulus_weights: Float[Array, "state stimulus"] | None
    bias: Float[Array, " state"]
    time_constants: Float[Array, " state"]

    def feedforward_input(self, stimulus: Float[Array, " stimulus"]) -> Float[Array, " state"]:
        """`B u + b`, the input from outside the network."""
        driven = stimulus if self.stimulus_weights is None else stimulus @ self.stimulus_weights.T
        return driven + self.bias

    def recurrent_input(self, rates: Float[Array, " state"]) -> Float[Array, " state"]:
        """`W r`. The vector is the left factor, so that `vmap` gives one matrix product with the batch as rows."""
        weights = self.recurrent_weights
        return weights @ rates if isinstance(weights, JAXSparse) else rates @ weights.T

    def total_input(self, rates: Float[Array, " state"], stimulus: Float[Array, " stimulus"]) -> Float[Array, " state"]:
        """`W r + B u + b`. In a steady state this is the state of the state form."""
        return self.recurrent_input(rates) + self.feedforward_input(stimulus)


@dataclasses.dataclass(frozen=True)
class _WithNonlinearity:
    """A function with a nonlinearity, which is pickled by reference to where it is defined.

    Python cannot pickle `jax.nn.relu` itself, since the function that it wraps has the same name.
    """

    nonlinearity: Nonlinearity

    def __reduce__(self):
        module = getattr(self.nonlinearity, "__module__", None)
        name = getattr(self.nonlinearity, "__qualname__", "")
        if getattr(sys.modules.get(module), name, None) is not self.nonlinearity:
            return type(self), (self.nonlinearity,)
        return _from_name, (type(self), module, name)


def _from_name(kind: type, module: str, name: str) -> object:
    return kind(getattr(importlib.import_module(module), name))


class UnitByUnit(_WithNonlinearity):
    """The rate function `phi(x)`. A class, so that two networks with the same nonlinearity compare equal."""

    def __call__(self, params: RateParams, state: Float[Array, " state"]) -> Float[Array, " state"]:
        return self.nonlinearity(state)


class _Form(_WithNonlinearity):
    @property
    def network_type(self) -> type[RecurrentNetwork]:
        """The type of a network with this field."""
        return RateNetwork


class StateForm(_Form):
    """The vector field `(-x + W phi(x) + B u + b) / tau`; the rates are `phi(x)`.

    Attributes:
        nonlinearity: phi, from states to rates, unit by unit.
    """

    def __call__(
        self, params: RateParams, state: Float[Array, " state"], stimulus: Float[Array, " stimulus"]
    ) -> Float[Array, " state"]:
        return (params.total_input(self.nonlinearity(state), stimulus) - state) / params.time_constants

    @property
    def rate_function(self) -> Callable[[RateParams, Float[Array, " state"]], Float[Array, " state"]]:
        """`phi(x)`."""
        return UnitByUnit(self.nonlinearity)

    def from_total_input(self, total_input: Float[Array, " state"]) -> Float[Array, " state"]:
        """The state of the fixed point with this total input."""
        return total_input


class RateForm(_Form):
    """The vector field `(-r + phi(W r + B u + b)) / tau`; the state is the rate.

    Attributes:
        nonlinearity: phi, from total inputs to rates, unit by unit.
    """

    def __call__(
        self, params: RateParams, state: Float[Array, " state"], stimulus: Float[Array, " stimulus"]
    ) -> Float[Array, " state"]:
        return (self.nonlinearity(params.total_input(state, stimulus)) - state) / params.time_constants

    @property
    def rate_function(self) -> Callable[[RateParams, Float[Array, " state"]], Float[Array, " state"]]:
        """The state itself."""
        return state_is_rate

    def from_total_input(self, total_input: Float[Array, " state"]) -> Float[Array, " state"]:
        """The state of the fixed point with this total input."""
        return self.nonlinearity(total_input)


class RateNetwork(RecurrentNetwork):
    """A network with a weight matrix, in the state or the rate form; made by `rate_network` and functions built on it.

    The *total input* to the units is `W r + B u + b`, with r the rates of all units, whatever the network's own rate
    function returns. Sweeps, Newton's method and certificates use it: at a fixed point it determines the state.

    `dataclasses.replace(network, rate_function=...)` gives the same network with other rates to learn.
    """

    def __check_init__(self):
        if not isinstance(self.vector_field, StateForm | RateForm):
            raise fail("vector_field", "has no weight matrix", "`StateForm` or `RateForm`", f"{self.vector_field}")

    @property
    def nonlinearity(self) -> Nonlinearity:
        """phi, from total inputs to rates, unit by unit."""
        return self.vector_field.nonlinearity

    @property
    def weights(self) -> Float[Array, "state state"] | JAXSparse:
        """W, from column to row; dense or sparse."""
        return self.params.recurrent_weights

    @property
    def has_sparse_weights(self) -> bool:
        """Whether W is sparse."""
        return isinstance(self.weights, JAXSparse)

    @property
    def has_dense_weights(self) -> bool:
        """Whether W is dense."""
        return not self.has_sparse_weights

    @property
    def dense_weights(self) -> Float[Array, "state state"]:
        """W, sparse or not, as a dense matrix."""
        return self.weights.todense() if self.has_sparse_weights else self.weights

    @property
    def shows_all_rates(self) -> bool:
        """Whether the network's own rate function is that of its form: the rates of all units."""
        return self.rate_function == self.vector_field.rate_function

    @property
    def shows_first_rates(self) -> bool:
        """Whether the network's rates are those of its first units, in their order, or of all; on the host."""
        if self.shows_all_rates:
            return True
        state = jnp.arange(1, self.state_size + 1, dtype=self.dtype)
        shown, all_rates = np.asarray(self.rates(state)), np.asarray(self.unit_rates(state))
        return len(shown) <= len(all_rates) and np.array_equal(shown, all_rates[: len(shown)])

    def unit_rates(self, state: Float[Array, " state"]) -> Float[Array, " state"]:
        """The rates of all units, which the weights multiply, whatever the network's own rate function returns."""
        return self.vector_field.rate_function(self.params, state)

    def total_input(self, state: Float[Array, " state"], stimulus: Float[Array, " stimulus"]) -> Float[Array, " state"]:
        """`W r + B u + b`, r being the rates of all units in this state."""
        return self.params.total_input(self.unit_rates(state), stimulus)

    def state_from_total_input(self, total_input: Float[Array, " state"]) -> Float[Array, " state"]:
        """The state of the fixed point at which the units receive this total input."""
        return self.vector_field.from_total_input(total_input)

    def slopes(self, total_input: Float[Array, " state"]) -> Float[Array, " state"]:
        """`phi'` at the total input to each unit."""
        return jax.jvp(self.nonlinearity, (total_input,), (jnp.ones_like(total_input),))[1]

    def jacobian(
        self, state: Float[Array, " state"], stimulus: Float[Array, " stimulus"]
    ) -> Float[Array, "state state"]:
        """`(W phi' - I) / tau` in the state form, `(phi' W - I) / tau` in the rate form: one pass over the weights."""
        if isinstance(self.vector_field, StateForm):
            pushed = self.dense_weights * self.slopes(state)[None, :]
        else:
            pushed = self.slopes(self.total_input(state, stimulus))[:, None] * self.dense_weights
        return (pushed - jnp.eye(self.state_size, dtype=self.dtype)) / self.time_constants[..., None]


def check_rate_network(network: RecurrentNetwork) -> RateNetwork:
    """The network, after checking that it has a weight matrix."""
    if not isinstance(network, RateNetwork):
        expected = "a network with a weight matrix, in the state or the rate form"
        raise fail("network", "has no weight matrix", expected, f"{network.vector_field}")
    return network


def rate_network(
    form: StateForm | RateForm,
    recurrent_weights: ArrayLike | BCOO | BCSR,
    *,
    stimulus_weights: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    gains: ArrayLike | None = None,
    thresholds: ArrayLike | None = None,
    time_constants: ArrayLike = 1.0,
    is_map: bool = False,
) -> RateNetwork:
    """A network in the state or the rate form, with any nonlinearity.

    Args:
        form: `StateForm(phi)` or `RateForm(phi)`.
        recurrent_weights: W, square, from column to row; its dtype is the network's (half precision becomes the default
            float). Dense, `BCOO` or `BCSR`.
        stimulus_weights: B, shape (state, stimulus). By default the stimulus drives each unit directly.
        bias: b, a constant input to each unit, by default 0.
        gains: g, positive, one for all units or one for each, by default 1: the rates are `phi(g (x - theta))` of the
            total input x. They are absorbed into W, B and b, so that everything known about phi still applies; the
            states of the state form are then `g (x - theta)`. Time constants and rates do not change.
        thresholds: theta, one for all units or one for each, by default 0, in units of the total input.
        time_constants: tau, positive, one for all units or one for each, in any unit of time.
        is_map: whether time is discrete, `x' = x + dx/dt`, as in a trained cell; a leaky cell, which retains the share
            `1 - a` of its state in each step, has the time constant `1 / a`, at least 1.

    Raises:
        ValueError: if W is not square or not finite, the shapes do not fit, a gain or a time constant is not positive,
            or a time constant is shorter than the step of a map.
    """
    if not isinstance(form, StateForm | RateForm):
        raise fail("form", "is not a form", "`StateForm(phi)` or `RateForm(phi)`", type(form).__name__)
    check_weights("recurrent_weights", recurrent_weights)
    weights = recurrent_weights.to_bcoo() if isinstance(recurrent_weights, BCSR) else recurrent_weights
    weights = weights if isinstance(weights, BCOO) else as_floats(weights)
    check_weights("recurrent_weights", weights)  # again, in the network's precision
    state_size = weights.shape[0]
    if stimulus_weights is not None:
        shape = shape_of("stimulus_weights", stimulus_weights)
        check_array("stimulus_weights", stimulus_weights, (state_size, shape[-1] if len(shape) == 2 else -1))
        stimulus_weights = in_precision("stimulus_weights", stimulus_weights, weights.dtype)
    bias = np.zeros(state_size, weights.dtype) if bias is None else bias
    check_array("bias", bias, (state_size,))
    check_units("time_constants", time_constants, state_size)
    check_positive("time_constants", time_constants)
    if is_map and is_known(time_constants) and np.min(time_constants) < 1:
        raise fail("time_constants", "are shorter than the step of a map", "at least 1", np.min(time_constants))
    bias = in_precision("bias", bias, weights.dtype)
    if thresholds is not None:
        check_units("thresholds", thresholds, state_size)
        bias = bias - in_precision("thresholds", thresholds, weights.dtype)
    if gains is not None:
        check_units("gains", gains, state_size)
        check_positive("gains", gains)
        gains = jnp.broadcast_to(in_precision("gains", gains, weights.dtype), (state_size,))
        weights = weights * gains[:, None]
        stimulus_weights = jnp.diag(gains) if stimulus_weights is None else gains[:, None] * stimulus_weights
        bias = gains * bias
    xp = jnp if isinstance(time_constants, jax.Array) else np  # on the host, where nothing is compiled
    time_constants = in_precision("time_constants", xp.broadcast_to(time_constants, (state_size,)), weights.dtype)
    return RateNetwork(
        form,
        RateParams(weights, stimulus_weights, bias, time_constants),
        state_size=state_size,
        stimulus_size=state_size if stimulus_weights is None else stimulus_weights.shape[1],
        rate_function=form.rate_function,
        is_map=is_map,
    )


def as_floats(array: ArrayLike) -> Float[Array, "..."]:
    """Convert to a JAX array of floats; numbers of types that solvers do not support become the default float."""
    if not isinstance(array, jax.Array):
        array = np.asarray(array)
    dtype = jax.dtypes.canonicalize_dtype(array.dtype.type if array.dtype.type in (np.float32, np.float64) else float)
    return as_array(array, dtype)  # values out of range become infinite, and are refused later
