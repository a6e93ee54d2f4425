"""`rnn2ff solve`."""

import dataclasses
from pathlib import Path

from rnn2ff.cli.options import Json, NetworkFiles, OptionalFloat, Overwrite, check_new_file, read_network, show


@dataclasses.dataclass(frozen=True)
class Solve:
    """Find the steady state for every stimulus.

    Writes a file with the arrays states, rates, statuses, status_names, residuals and num_steps; a .csv file has a
    column for each unit, as rates_0.

    Example: rnn2ff solve --weights W.npy --stimuli U.npy --out states.npz
    """

    network: NetworkFiles
    out: Path
    """The .npz, .mat or .csv file to write."""
    tolerance: OptionalFloat = None
    """Largest relative residual that counts as rest; by default 1e-5 in float32, 1e-9 in float64."""
    overwrite: Overwrite = False
    as_json: Json = False

    def run(self) -> int:
        """Solve, write the file, and count the statuses."""
        check_new_file(self.out, overwrite=self.overwrite)
        network, stimuli = read_network(self.network)

        import jax
        import numpy as np

        from rnn2ff.files import write_arrays
        from rnn2ff.steady_state import Status, count_statuses, solve_steady_states

        limits = {"tolerance": self.tolerance, "max_steps": self.network.max_steps}
        solved = solve_steady_states(network, stimuli, **limits, progress=self.network.shows_progress)
        arrays = {
            "states": np.asarray(solved.state),
            "rates": np.asarray(jax.vmap(network.rates)(solved.state)),
            "statuses": np.asarray(solved.status),
            "status_names": np.array([status.name for status in Status]),
            "residuals": np.asarray(solved.residual),
            "num_steps": np.asarray(solved.num_steps),
        }
        write_arrays(self.out, arrays)
        counts = count_statuses(solved.status)
        lines = {name: count for name, count in counts.items() if count} | {"written to": self.out}
        show(lines, {"status_counts": counts, "written_to": self.out}, as_json=self.as_json)
        return 0 if counts["converged"] else 1
