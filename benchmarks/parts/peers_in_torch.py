"""The competitors that are written in PyTorch: a plain loop and torchdeq."""

from collections.abc import Callable

import numpy as np

from benchmarks.parts.contenders import TOLERANCE
from benchmarks.parts.peer_tuning import MAX_ITERATIONS, Solve
from benchmarks.parts.problems import Problem


def _torch_sweep(problem: Problem) -> Callable:
    """The plain fixed-point iteration of a batch."""
    import torch

    transposed = torch.tensor(problem.weights.T.copy())
    phi = {"relu": torch.relu, "tanh": torch.tanh, "power": lambda states: 0.04 * torch.relu(states) ** 2}
    return lambda states, stimuli: torch.addmm(stimuli, phi[problem.nonlinearity](states), transposed)


def torch_loop(problem: Problem) -> Solve:
    import torch

    sweep = _torch_sweep(problem)

    @torch.inference_mode()
    def solve(stimuli, damping, check_every, threads):
        torch.set_num_threads(threads)
        stimuli = torch.from_numpy(np.array(stimuli))
        states = torch.zeros_like(stimuli)
        for _ in range(MAX_ITERATIONS // check_every):
            for _ in range(check_every):
                before = states
                states = torch.lerp(before, sweep(before, stimuli), damping)
            change = (states - before).abs().amax(dim=1) / (damping * (1 + states.abs().amax(dim=1)))
            # For the state before the last step, hence no margin for the one after it; NaN ends the loop as well.
            if not (change.max() >= TOLERANCE):
                break
        return states.numpy()

    return solve


def torchdeq(method: str) -> Callable[[Problem], Solve]:
    def build(problem: Problem) -> Solve:
        import torch
        from torchdeq.solver import get_solver

        solver = get_solver(method)
        sweep = _torch_sweep(problem)

        @torch.inference_mode()
        def solve(stimuli, stop, max_iterations, threads):
            torch.set_num_threads(threads)
            stimuli = torch.from_numpy(np.array(stimuli))
            start = torch.zeros_like(stimuli)
            try:
                solution, _, _ = solver(
                    lambda states: sweep(states, stimuli), start, max_iter=max_iterations, tol=stop, stop_mode="rel"
                )
            except torch.linalg.LinAlgError:  # one singular sample ends its whole batch
                solution = torch.full_like(stimuli, torch.nan)
            return solution.numpy()

        return solve

    return build
