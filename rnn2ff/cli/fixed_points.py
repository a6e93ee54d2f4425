"""`rnn2ff fixed-points`."""

import dataclasses
from pathlib import Path

from rnn2ff.cli.options import Json, NetworkFiles, Overwrite, check_new_file, read_network, show, stages


@dataclasses.dataclass(frozen=True)
class FixedPoints:
    """Find all fixed points for one stimulus, stable or not, and audit whether some are missing.

    Writes a file with the arrays states, residuals, eigenvalues, is_stable and indices, the stable ones first.

    Example: rnn2ff fixed-points --weights W.npy --stimuli U.npy --row 3 --out fixed_points.npz
    """

    network: NetworkFiles
    out: Path
    """The .npz, .mat or .csv file to write."""
    row: int = 0
    """Which of the stimuli to hold, from 0."""
    num_starts: int = 256
    """Number of random starts of the search."""
    seed: int = 0
    """Seed of the starts."""
    overwrite: Overwrite = False
    as_json: Json = False

    def run(self) -> int:
        """Search, write the file, and summarize."""
        from rnn2ff._checks import check_at_least, fail

        check_new_file(self.out, overwrite=self.overwrite)
        check_at_least("num-starts", self.num_starts, 1)
        network, stimuli = read_network(self.network)
        if not 0 <= self.row < len(stimuli):
            raise fail("row", "is out of range", f"0 to {len(stimuli) - 1}", self.row)

        import jax.random as jr

        from rnn2ff.analysis import find_fixed_points
        from rnn2ff.files import write_arrays

        with stages(1, shows=self.network.shows_progress) as begin:
            begin("searching for fixed points")
            points = find_fixed_points(network, stimuli[self.row], num_starts=self.num_starts, key=jr.key(self.seed))
        names = ("states", "residuals", "eigenvalues", "is_stable", "indices")
        write_arrays(self.out, {name: getattr(points, name) for name in names})
        record = {
            "num_fixed_points": len(points.states),
            "num_stable": int(points.is_stable.sum()),
            "index_sum": points.index_sum,
            "audit": points.audit.name,
            "explanation": points.explanation,
            "basin_counts": points.basin_counts,
            "failures": points.failures,
            "written_to": self.out,
        }
        lines = {
            "fixed points": record["num_fixed_points"],
            "stable": record["num_stable"],
            "sum of their indices": record["index_sum"],
            "audit": f"{record['audit']}: {record['explanation']}",
            "starts that settled": f"{sum(record['basin_counts'])} of {len(points.starts)}",
            "written to": self.out,
        }
        show(lines, record, as_json=self.as_json)
        return 0 if len(points.states) else 1
