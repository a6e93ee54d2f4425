"""The scripts of the suite, in the order in which they run, and their options in a quick run."""

from typing import NamedTuple


class Benchmark(NamedTuple):
    """A script of the suite.

    Attributes:
        name: of the module, which has `run` and `describe`, and may have `marks`.
        quick: its options in a quick run; None if it is not part of a quick run.
    """

    name: str
    quick: tuple[str, ...] | None = None


_QUICK_FORWARD = (
    "--sizes 128 --widths 4 --sweeps 4 --tolerances 1e-3 1e-5 --num-pairs 4000 --num-steps 300 --num-rounds 10 "
    "--budget-seconds 0.5 --num-latency-blocks 50 --integrators Tsit5 --solvers Anderson --no-one-thread"
)
_QUICK_SCALING = (
    "--sizes 32 128 512 --widths 1 4 --batches 1 4096 --largest-solved-batch 64 --radii 0.9 0.99 "
    "--num-rounds 7 --budget-seconds 0.3 --no-planned"
)

SUITE = (
    Benchmark("rollout_vs_forward", tuple(_QUICK_FORWARD.split())),
    Benchmark("scaling", tuple(_QUICK_SCALING.split())),
    Benchmark("steady_states"),
    Benchmark("first_call"),
    Benchmark("large_networks"),
    Benchmark("fitting"),
    Benchmark("fixed_points"),
    Benchmark("honest_failures"),
    Benchmark("bottlenecks"),
    Benchmark("robustness"),
    Benchmark("certificates"),
    Benchmark("deployment"),
)


class Timed(NamedTuple):
    """A script in a run of a given time.

    Attributes:
        name: of the module.
        options: its options, chosen so that the most informative rows come first.
        share: of the time that remains when it begins.
    """

    name: str
    options: tuple[str, ...]
    share: float


_TIMED_FORWARD = (
    "--sizes 128 512 2048 --batches 256 4096 65536 --solved-batches 256 4096 65536 --widths 4 --sweeps 4 "
    "--tolerances 1e-3 1e-5 --num-pairs 4000 --num-steps 300 --num-rounds 10 --budget-seconds 0.5 "
    "--num-latency-blocks 20 --integrators Tsit5 --solvers Anderson --no-one-thread --step-shares 0.1 --solvers-first"
)
_TIMED_FITTING = "--num-seeds 1 --targets random09 --num-steps 2000 --num-sweep-steps 1000 --num-adam-steps 2000"
_TIMED_FIRST_CALL = "--cases solve_steady_states solve_batch distill --num-processes 1 --budget-seconds 1"

TIMED = (
    Timed("rollout_vs_forward", tuple(_TIMED_FORWARD.split()), 0.7),
    Timed("fitting", tuple(_TIMED_FITTING.split()), 0.5),
    Timed("first_call", tuple(_TIMED_FIRST_CALL.split()), 1.0),
)
