"""The competitors: other methods and libraries to find steady states, each at its best setting.

A peer is built for a problem, and returns states for stimuli. Convergence is judged by `residuals64`, not by the peer.
Each has a few settings, from which `tune` selects the fastest that converges on every sample. If its package is
missing, the peer is reported as not run.
"""

import itertools
import os

from benchmarks.parts import peers_in_jax, peers_in_scipy, peers_in_torch
from benchmarks.parts.peer_tuning import Peer, Setting

_JACOBIAN_BYTES = 64e6  # methods with a Jacobian per sample get no more samples than fit


def _grid(**choices: tuple) -> tuple[Setting, ...]:
    return tuple(dict(zip(choices, values)) for values in itertools.product(*choices.values()))


def _few(state_size: int) -> int:
    return max(2, 2048 // state_size)


def _jacobians(state_size: int) -> int:
    return max(16, int(_JACOBIAN_BYTES / (4 * state_size**2)))


_STOPS = (3e-5, 1e-5, 3e-6, 1e-6)
_THREADS = tuple(sorted({1, os.cpu_count() or 1}))  # of PyTorch; more may be slower, where they have to wait
_DAMPINGS = (1.0, 0.7, 0.4, 0.2)
_ALL_DAMPINGS = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1)
_STEP_TOLERANCES = (5e-7, 1e-6, 2e-6, 3e-6, 5e-6, 1e-5, 3e-5, 1e-4, 3e-4, 1e-3)

ROLLOUT = Peer(
    "diffrax Tsit5",
    "diffrax",
    peers_in_jax.diffrax,
    _grid(step_tolerance=_STEP_TOLERANCES, tiles=("64", "all")),
    ends_at_failure=True,
)
PLAIN_LOOP = Peer(
    "plain loop", "jax", peers_in_jax.plain_loop, _grid(damping=_ALL_DAMPINGS, check_every=(1, 4)), takes_all=True
)
PEERS = (
    PLAIN_LOOP,
    Peer(
        "optimistix FixedPointIteration",
        "optimistix",
        peers_in_jax.optimistix_fixed_point,
        _grid(stop=_STOPS, damping=_DAMPINGS),
    ),
    Peer("optimistix Newton", "optimistix", peers_in_jax.optimistix_newton, _grid(stop=(1e-3, 1e-5)), _jacobians),
    Peer(
        "jaxopt FixedPointIteration",
        "jaxopt",
        peers_in_jax.jaxopt("fixed point"),
        _grid(stop=_STOPS, damping=_DAMPINGS),
    ),
    Peer(
        "jaxopt Anderson", "jaxopt", peers_in_jax.jaxopt("anderson"), _grid(history=(3, 5), stop=(3e-4, 1e-4, *_STOPS))
    ),
    Peer(
        "PyTorch loop",
        "torch",
        peers_in_torch.torch_loop,
        _grid(damping=_DAMPINGS, check_every=(1, 4), threads=_THREADS),
    ),
    Peer(
        "torchdeq Anderson",
        "torchdeq",
        peers_in_torch.torchdeq("anderson"),
        _grid(stop=(1e-5, 2e-6), max_iterations=(150,), threads=_THREADS),
    ),
    Peer(
        "torchdeq Broyden",
        "torchdeq",
        peers_in_torch.torchdeq("broyden"),
        _grid(stop=(1e-5, 2e-6), max_iterations=(100,), threads=_THREADS),
    ),
    Peer("SciPy root", "scipy", peers_in_scipy.scipy, _grid(method=("hybr", "krylov")), _few),
)
