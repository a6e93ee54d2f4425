"""`rnn2ff bench`."""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from rnn2ff.cli.options import Json, NetworkFiles, check_differ, read_approximator, read_network, show, stages

if TYPE_CHECKING:
    import numpy as np

    from rnn2ff.approximators import Approximator
    from rnn2ff.networks import RecurrentNetwork


@dataclasses.dataclass(frozen=True)
class Bench:
    """Time an approximator beside the ways of solving the network, on this machine.

    All are compiled, work on the same batch, and take turns; medians with quartiles, in microseconds per stimulus. The
    rollout is Tsit5 without a verdict; `solve` is the fastest solver that lands where the dynamics land, with verdicts.

    Example: rnn2ff bench --approximator run1/approximator.safetensors --weights W.npy --stimuli U.npy
    """

    network: NetworkFiles
    approximator: Path
    """The file approximator.safetensors of a distillation."""
    batch_size: int = 256
    """Stimuli in a batch; rows are repeated if there are fewer."""
    num_rounds: int = 20
    """Turns of each competitor."""
    as_json: Json = False

    def run(self) -> int:
        """Time all competitors, and print their ratios."""
        from rnn2ff._checks import check_sizes

        check_sizes(**{"batch-size": self.batch_size, "num-rounds": self.num_rounds})
        network, rows = read_network(self.network)
        check_differ(rows)
        approximator, _ = read_approximator(self.approximator, network)

        import jax
        import numpy as np

        from rnn2ff.approximators import predict
        from rnn2ff.records import environment
        from rnn2ff.steady_state import count_statuses
        from rnn2ff.training import accuracy

        stimuli = np.resize(rows, (self.batch_size, rows.shape[1]))
        with stages(5, shows=self.network.shows_progress) as begin:
            begin("choosing the fastest solver")
            solve, competitors = _competitors(network, approximator, stimuli, rows, self.network.max_steps)
            compile_seconds, seconds = _time(competitors, self.num_rounds, begin)
        solved = solve()
        is_solved = np.asarray(solved.is_converged)
        if not is_solved.any():
            raise RuntimeError(f"No stimulus leads to a steady state: {count_statuses(solved.status)}.")
        rates = np.asarray(jax.vmap(network.rates)(solved.state))
        error = accuracy(np.asarray(predict(approximator, stimuli))[is_solved], rates[is_solved])
        microseconds = {name: [1e6 * value / self.batch_size for value in values] for name, values in seconds.items()}
        fastest = microseconds["pass"][0]
        lines = {
            name: f"{median:10.3f} us ({lower:.3f} to {upper:.3f}), {median / fastest:7.1f} x the pass,"
            f" compiled in {compile_seconds[name]:.1f} s"
            for name, (median, lower, upper) in microseconds.items()
        }
        lines |= {
            "error of the pass": error.headline(self.batch_size),
            **error.lines(),
            "without a steady state": f"{int((~is_solved).sum())} of {self.batch_size}",
        }
        record = {
            "batch_size": self.batch_size,
            "microseconds_per_stimulus": {
                name: dict(zip(("median", "lower", "upper"), values)) for name, values in microseconds.items()
            },
            "compile_seconds": compile_seconds,
            "accuracy": error,
            "status_counts": count_statuses(solved.status),
            "environment": environment(),
        }
        show(lines, record, as_json=self.as_json)
        return 0


def _competitors(
    network: "RecurrentNetwork", approximator: "Approximator", stimuli: "np.ndarray", rows: "np.ndarray", max_steps: int
):
    """The fastest solver, and all competitors; functions without arguments."""
    import equinox as eqx
    import jax
    import jax.numpy as jnp

    from rnn2ff._checks import check_tolerance
    from rnn2ff.approximators import predict
    from rnn2ff.steady_state import Rollout, plan_steady_states, solve_steady_states

    initial_state = jnp.zeros(network.state_size, network.dtype)
    tolerance = check_tolerance(None, network.dtype)
    search = functools.partial(Rollout().search, tolerance=tolerance, max_steps=max_steps)
    stimuli = jnp.asarray(stimuli)

    @eqx.filter_jit
    def roll_out(network, stimuli):
        return jax.vmap(lambda stimulus: search(network, stimulus, initial_state))(stimuli)

    plan = plan_steady_states(network, rows)
    solve = functools.partial(solve_steady_states, network, stimuli, solver=plan, max_steps=max_steps)
    competitors = {
        "rollout": lambda: roll_out(network, stimuli).state,
        "solve": lambda: solve().state,
        "pass": lambda: predict(approximator, stimuli),
    }
    return solve, competitors


def _time(competitors, num_rounds: int, begin: "Callable[[str], None]"):
    """Seconds of the first call, compilation included, and of the later ones."""
    from rnn2ff.records import time_interleaved, timed

    first = {}
    for name, competitor in competitors.items():
        begin(f"compiling: {name}")
        first[name] = timed(competitor).seconds
    begin(f"{num_rounds} rounds")
    return first, time_interleaved(competitors, num_rounds=num_rounds)
