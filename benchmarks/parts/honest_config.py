"""Settings of `honest_failures`."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of the benchmark."""

    seed: int = 0
    """Seed of the first network of each family; the others have the seeds that follow."""
    families: tuple[str, ...] = ()
    """Names of the families; all of them if empty."""
    num_networks: int = 8
    """Networks of each family."""
    num_stimuli: int = 24
    """Stimuli for each network."""
    num_competing: int = 2048
    """Stimuli of the winner-take-all family, which has one network."""
    dtypes: tuple[str, ...] = (
        "float32",
        "float32 planned",
        "float64",
        "float64 planned",
        "float32 engine",
        "float64 engine",
    )
    """The precision of the solves, and the mode: `planned` with an existing plan, `engine` by `solve_batch` alone."""
    max_time: float = 2000.0
    """Duration of the rollouts for the truth, in longest time constants."""
    late_after: float = 1000.0
    """Where a saddle delays the dynamics by more longest time constants than this, the end need not be found."""
    window: float = 400.0
    """Time after `max_time` in which a period is searched for."""

    def smoke(self) -> "Config":
        """Small enough to run in a minute or two, nearly all of which is compilation."""
        families = ("cycle of 3", "tie, rate 0.1")
        return dataclasses.replace(
            self,
            families=families,
            num_networks=1,
            num_stimuli=4,
            num_competing=16,
            dtypes=("float32", "float32 planned", "float64 engine"),
            max_time=300.0,
            window=100.0,
        )
