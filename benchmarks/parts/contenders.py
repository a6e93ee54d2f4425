"""The methods that are compared in time: rollouts, solvers, feed-forward passes, and the matrix products of a pass.

Each is a pure function of a batch of stimuli, written so that it compiles for any device.
"""

import functools
import importlib.util
from collections.abc import Callable
from typing import NamedTuple

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.parts.method import Compiled, compile_ahead, over_devices
from rnn2ff.approximators import Approximator, predict
from rnn2ff.networks import RecurrentNetwork, residual
from rnn2ff.records import num_threads
from rnn2ff.steady_state import (
    AbstractSteadyStateSolver,
    ActiveSet,
    Anderson,
    Plan,
    Rollout,
    RootFind,
    solve_steady_state,
    solve_steady_states,
)

TOLERANCE = 1e-5  # the residual that counts as rest
_EVENT_SAFETY = 0.9  # the event occurs a little below the tolerance, so that a residual in float64 is below as well
_MAX_TIME = 5000  # in slowest time constants
_MOST_STEPS = 4000
PLANNED = "solve_steady_states, plan reused"

INTEGRATORS = {"Tsit5": dfx.Tsit5(), "Heun": dfx.Heun(), "Kvaerno5": dfx.Kvaerno5()}
SOLVERS = {"Rollout": Rollout, "RootFind": RootFind, "Anderson": Anderson, "ActiveSet": ActiveSet}
# Entries that the matrices of all samples may have: a factorization, a proof of stability by products of matrices, or
# (Heun) very many steps. Beyond this, these methods get fewer samples than the batch has, which favors them.
_LARGEST_ENTRIES = {
    "Heun": 2**20,
    "Kvaerno5": 2**18,
    "Rollout": 2**24,
    "Anderson": 2**24,
    "RootFind": 2**20,
    "ActiveSet": 2**20,
}
_FEWEST_SAMPLES = 4
_LARGEST_SIZES = {"Kvaerno5": 256}  # units; beyond, a call takes minutes even so


class Contender(NamedTuple):
    """A way to the steady rates, or a part of one.

    Attributes:
        name: of the method.
        kind: "rollout", "solver", "pass", "runtime" for a pass in another program, or "floor".
        function: takes its arguments and a batch of stimuli, and returns what `gives` names.
        arguments: arrays, beside the stimuli.
        gives: "states", "rates", or "nothing" that can be compared.
        about: further entries of its row, which identify it.
        largest_batch: the most samples that it is given.
        reason_left_out: why it is not timed, if it is not.
    """

    name: str
    kind: str
    function: Callable
    arguments: tuple = ()
    gives: str = "states"
    about: dict = {}  # noqa: RUF012
    largest_batch: int = 2**30
    reason_left_out: str = ""

    def compile(self, stimuli: jax.Array, num_devices: int = 1) -> Compiled:
        """Compile it for these stimuli, which are on one device, or divided among all devices."""
        function = self.function if num_devices == 1 else over_devices(self.function, len(self.arguments))
        return compile_ahead(function, *self.arguments, stimuli)


def roll_out(
    network: RecurrentNetwork, integrator: dfx.AbstractSolver, max_steps: int = 20_000
) -> Callable[[jax.Array, jax.Array, jax.Array], tuple[jax.Array, jax.Array]]:
    """vmap(diffrax, steps of adapted size, an event on the residual's max-norm): states, and numbers of steps.

    The returned function takes the residual at which it stops, the tolerance of the steps, and the stimuli.
    """
    # A number, and no array: diffrax then checks it before anything is traced, and leaves no callback in the program.
    slowest = float(jnp.max(network.time_constants))

    def one(stimulus, rest_tolerance, step_tolerance):
        def is_at_rest(t, state, stimulus, **kwargs):
            del t, kwargs
            return residual(network, state, stimulus) < _EVENT_SAFETY * rest_tolerance

        solution = dfx.diffeqsolve(
            dfx.ODETerm(lambda t, state, stimulus: network.velocity(state, stimulus)),
            integrator,
            t0=0.0,
            t1=_MAX_TIME * slowest,
            dt0=0.1 * slowest,
            y0=jnp.zeros(network.state_size, network.dtype),
            args=stimulus,
            stepsize_controller=dfx.PIDController(rtol=step_tolerance, atol=step_tolerance),
            event=dfx.Event(is_at_rest),
            adjoint=dfx.ForwardMode(),
            max_steps=max_steps,
            throw=False,
        )
        return solution.ys[0], solution.stats["num_steps"]

    return lambda rest, step, stimuli: jax.vmap(one, in_axes=(0, None, None))(stimuli, rest, step)


def rollouts(
    network: RecurrentNetwork, names: tuple[str, ...], tolerances: tuple[float, ...], step_shares: tuple[float, ...]
) -> list[Contender]:
    """Integrators at tolerances, and Tsit5 at the smallest with larger steps as well.

    Args:
        network: the network.
        names: of the integrators.
        tolerances: residuals at which a rollout stops.
        step_shares: tolerances of the steps, as shares of that; the first for all.
    """
    contenders = []
    for name in names:
        function = roll_out(network, INTEGRATORS[name], max_steps=_MOST_STEPS)
        for tolerance in tolerances:
            is_scanned = name == "Tsit5" and tolerance == min(tolerances)
            for share in step_shares if is_scanned else step_shares[:1]:
                about = {"tolerance": tolerance, "step_tolerance": tolerance * share}
                arguments = tuple(jnp.asarray(value, network.dtype) for value in about.values())
                is_too_large = network.state_size > _LARGEST_SIZES.get(name, network.state_size)
                reason = "takes minutes a call with so many units" if is_too_large else ""
                largest = _largest_batch(name, network)
                contenders.append(Contender(name, "rollout", function, arguments, "states", about, largest, reason))
    return contenders


def solvers(network: RecurrentNetwork, names: tuple[str, ...]) -> list[Contender]:
    """Each solver of this library, verdicts included."""
    return [
        Contender(
            name,
            "solver",
            functools.partial(_solve, network, SOLVERS[name](tolerance=TOLERANCE)),
            about={"tolerance": TOLERANCE},
            largest_batch=_largest_batch(name, network),
        )
        for name in names
    ]


def _solve(network: RecurrentNetwork, solver: AbstractSteadyStateSolver, stimuli: jax.Array) -> tuple:
    solution = jax.vmap(lambda stimulus: solve_steady_state(network, stimulus, solver, throw=False))(stimuli)
    return solution.state, solution.num_steps


def _largest_batch(name: str, network: RecurrentNetwork) -> int:
    entries = _LARGEST_ENTRIES.get(name)
    return 2**30 if entries is None else max(_FEWEST_SAMPLES, entries // network.state_size**2)


def solve_by_plan(network: RecurrentNetwork, plan: Plan) -> Callable[[np.ndarray], tuple]:
    """The entry point as a user calls it, on the host, with a plan that was made before."""

    def solve(stimuli):
        solution = solve_steady_states(network, stimuli, solver=plan, tolerance=TOLERANCE)
        return solution.state, solution.num_steps

    return solve


def forward_pass(approximator: Approximator, about: dict, *, closes_over_weights: bool = False) -> Contender:
    """An approximator; its weights are arguments, or constants of the program, which makes single calls faster."""
    arrays, rest = eqx.partition(approximator, eqx.is_array)
    if closes_over_weights:
        return Contender("pass", "pass", lambda stimuli: predict(approximator, stimuli), (), "rates", about)

    def function(arrays, stimuli):
        return predict(eqx.combine(arrays, rest), stimuli)

    return Contender("pass", "pass", function, (arrays,), "rates", about)


def products(stimulus_size: int, width: int, rate_size: int) -> Contender:
    """The two matrix products of a pass alone, in the fastest layout."""
    rng = np.random.default_rng(0)
    shapes = ((stimulus_size, width), (width, rate_size))
    weights = tuple(jnp.asarray(rng.normal(size=shape) / shape[0] ** 0.5, jnp.float32) for shape in shapes)

    def multiply(first, second, stimuli):
        return (stimuli @ first) @ second

    return Contender("GEMM pair", "floor", multiply, weights, "nothing", {"width": width, "num_sweeps": 0})


def has_onnx() -> bool:
    """Whether the extra `onnx` is installed."""
    return all(importlib.util.find_spec(name) is not None for name in ("onnx", "onnxruntime"))


def onnx_call(model: bytes, batch_size: int) -> Callable[[np.ndarray], np.ndarray]:
    """Run a model by onnxruntime: with all cores for a batch, and with one for a single stimulus, which is faster."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1 if batch_size == 1 else num_threads()
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return lambda stimuli: session.run(["rates"], {"stimuli": stimuli})[0]
