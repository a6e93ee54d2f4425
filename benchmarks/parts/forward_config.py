"""Settings of `rollout_vs_forward`."""

import dataclasses

from benchmarks.parts.contenders import INTEGRATORS, SOLVERS, TOLERANCE


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the benchmark."""

    seed: int = 0
    """Of the weights, the stimuli and the training."""
    problem: str = "gauss09"
    """Of `benchmarks/parts/problems.py`."""
    sizes: tuple[int, ...] = (32, 128, 512)
    """Numbers of units."""
    batches: tuple[int, ...] = (1, 256, 4096)
    """Numbers of stimuli in a pass."""
    solved_batches: tuple[int, ...] = (256,)
    """Those of them on which rollouts and solvers are timed too."""
    integrators: tuple[str, ...] = tuple(INTEGRATORS)
    """Of the rollouts."""
    solvers: tuple[str, ...] = tuple(SOLVERS)
    """Of this library, each compiled alone; the entry point takes part in any case."""
    tolerances: tuple[float, ...] = (1e-1, 1e-2, 1e-3, 1e-4, TOLERANCE)
    """Residuals at which a rollout stops."""
    step_shares: tuple[float, ...] = (0.1, 0.2, 0.5)
    """Tolerances of its steps, as shares of that, ascending; those after the first are for Tsit5 at its best."""
    widths: tuple[int, ...] = (1, 2, 4, 8)
    """Hidden units of two layers, in multiples of the number of units; 4 is the one with marks."""
    sweeps: tuple[int, ...] = (2, 4, 8)
    """Trained sweeps after two layers as wide as the network."""
    largest_trained: int = 128
    """Larger networks get random layers: their passes are timed, and marked as untrained."""
    solvers_first: bool = False
    """Whether rollouts and solvers of a batch are timed before anything is trained, so that rows come early."""
    num_pairs: int = 20_000
    """Stimuli to train on."""
    num_steps: int = 3000
    """Optimizer steps of each training."""
    num_judged: int = 256
    """Stimuli whose exact steady states are known, at most."""
    num_rounds: int = 20
    """Turns of each contender; slow ones get fewer, at least 3."""
    budget_seconds: float = 1.0
    """For the turns of one, after which they get fewer."""
    num_latency_calls: int = 500
    """Single calls in a block, of a pass; what is slower gets fewer."""
    num_latency_blocks: int = 200
    """Blocks of single calls; slow ones get fewer, at least 3."""
    one_thread: bool = True
    """Whether a process with one thread measures the passes as well, on a processor."""

    def smoke(self) -> "Config":
        """Small enough to run in seconds."""
        return dataclasses.replace(
            self,
            sizes=(16,),
            batches=(1, 16),
            solved_batches=(16,),
            tolerances=(1e-2, TOLERANCE),
            step_shares=(0.1,),
            widths=(4,),
            sweeps=(2,),
            num_pairs=200,
            num_steps=20,
            num_judged=16,
            num_rounds=3,
            budget_seconds=0.1,
            num_latency_calls=20,
            num_latency_blocks=2,
        )
