"""Settings of `first_call`."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the benchmark."""

    seed: int = 0
    """Of the weights and the stimuli."""
    cases: tuple[str, ...] = ()
    """Which cases; all of them if empty."""
    state_size: int = 128
    """Units of the network whose steady states are solved."""
    batch_sizes: tuple[int, int] = (20_000, 12_345)
    """Stimuli of the first two calls, and of the third, of `solve_steady_states`, `solve_batch`, `rnn2ff solve`."""
    num_served: tuple[int, int] = (4096, 3000)
    """The same, for `predict_or_solve`."""
    num_distilled: tuple[int, int] = (20_000, 15_000)
    """Samples of `distill`; the first is its default."""
    num_training_steps: int = 5_000
    """Of `distill`, by default."""
    num_starts: tuple[int, int] = (256, 200)
    """Starts of `find_fixed_points`."""
    num_processes: int = 3
    """The most fresh processes of a case, each with and without the cache; slow cases get fewer, at least 1."""
    budget_seconds: float = 60.0
    """For the processes of a case, without and with the cache each; none is started when more is spent."""
    most_seconds: float = 600.0
    """For one process; a case that takes longer has a row that says so."""

    def smoke(self) -> "Config":
        """Small enough to run in seconds."""
        return dataclasses.replace(
            self,
            cases=("solve_steady_states", "solve_batch"),
            state_size=16,
            batch_sizes=(64, 40),
            num_processes=1,
        )
