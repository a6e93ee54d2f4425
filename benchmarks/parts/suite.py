"""The scripts of the suite, in the order in which they run, and their options in a quick run."""

from typing import NamedTuple


class Benchmark(NamedTuple):
    """A script of the suite.

    Attributes:
        name: of the module, which has `run` and `describe`, and may have `marks`.
        quick: its options in a quick run; None where it takes no part.
    """

    name: str
    quick: tuple[str, ...] | None = None


_QUICK_FORWARD = (
    "--sizes 128 --widths 4 --sweeps 4 --tolerances 1e-3 1e-5 --num-pairs 4000 --num-steps 300 --num-rounds 10 "
    "--budget-seconds 0.5 --num-latency-blocks 50 --integrators Tsit5 --solvers Anderson --no-one-thread"
)
_QUICK_SCALING = (
    "--sizes 32 128 512 --widths 1 4 16 --batches 1 64 4096 --largest-solved-batch 64 --radii 0.9 0.99 "
    "--num-rounds 7 --budget-seconds 0.3 --no-planned"
)

SUITE = (
    Benchmark("rollout_vs_forward", tuple(_QUICK_FORWARD.split())),
    Benchmark("scaling", tuple(_QUICK_SCALING.split())),
    Benchmark("steady_states"),
    Benchmark("first_call"),
    Benchmark("fitting"),
    Benchmark("fixed_points"),
    Benchmark("honest_failures"),
    Benchmark("robustness"),
    Benchmark("certificates"),
    Benchmark("deployment"),
)
