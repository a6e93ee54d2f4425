"""Settings of `rollout_vs_forward`."""

import dataclasses

from benchmarks.parts.contenders import INTEGRATORS, SOLVERS, TOLERANCE


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the benchmark."""

    seed: int = 0
    """Of the weights, the stimuli and the training."""
    problem: str = "gauss09"
    """Name of a problem of `benchmarks/parts/problems.py`."""
    sizes: tuple[int, ...] = (32, 128, 512)
    """Numbers of units."""
    batches: tuple[int, ...] = (1, 256, 4096)
    """Numbers of stimuli in a pass."""
    solved_batches: tuple[int, ...] = (256,)
    """Those batches on which rollouts and solvers are timed as well."""
    integrators: tuple[str, ...] = tuple(INTEGRATORS)
    """Integrators of the rollouts."""
    solvers: tuple[str, ...] = tuple(SOLVERS)
    """Solvers of this library, each compiled alone; the entry point is always timed as well."""
    tolerances: tuple[float, ...] = (1e-1, 1e-2, 1e-3, 1e-4, TOLERANCE)
    """Residuals at which a rollout stops."""
    step_shares: tuple[float, ...] = (0.1, 0.2, 0.5)
    """Tolerances of its steps, as shares of that residual, ascending; only Tsit5 at the smallest residual gets all."""
    widths: tuple[int, ...] = (1, 2, 4, 8)
    """Hidden units of two layers, in multiples of the number of units; 4 is the one with marks."""
    sweeps: tuple[int, ...] = (2, 4, 8)
    """Trained sweeps after two layers as wide as the network."""
    largest_trained: int = 128
    """Larger networks get random layers: their passes are timed, and marked as untrained."""
    solvers_first: bool = False
    """Whether rollouts and solvers are timed before anything is trained, so that there are rows early."""
    num_pairs: int = 20_000
    """Stimuli to train on."""
    num_steps: int = 3000
    """Optimizer steps of each training."""
    num_judged: int = 256
    """Stimuli whose exact steady states are known, at most."""
    num_rounds: int = 20
    """Timed turns of each contender; slow contenders get fewer, at least 3."""
    budget_seconds: float = 1.0
    """Time for the turns of one contender; contenders that take longer get fewer turns."""
    num_latency_calls: int = 500
    """Single calls of a pass in a block; slower contenders get fewer."""
    num_latency_blocks: int = 200
    """Blocks of single calls; slow contenders get fewer, at least 3."""
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
