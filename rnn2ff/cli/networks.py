"""`rnn2ff networks`."""

import dataclasses
import itertools
import shlex
from pathlib import Path

from rnn2ff.cli.options import Json, OptionalPath, OptionalText, check_folder, show

_NUM_STIMULI = 5000  # 4000 to train on and 1000 for the test, by the default share of `rnn2ff distill`


@dataclasses.dataclass(frozen=True)
class Networks:
    """List the networks that come with the package, or write one of those marked --write to files.

    With --write, the folder holds W.npy, the other parameters and U.npy, stimuli drawn from 0 to 1; the command that
    goes on from there is printed.

    Example: rnn2ff networks

    Example: rnn2ff networks --write winner_take_all --out wta
    """

    write: OptionalText = None
    """Name of the network to write."""
    out: OptionalPath = None
    """Folder for the files; made if it does not exist."""
    seed: int = 0
    """Seed of random weights and stimuli."""
    overwrite: bool = False
    """Replace files that exist."""
    as_json: Json = False

    def run(self) -> int:
        """List, or write."""
        from rnn2ff._checks import fail

        if self.write is None:
            return self._list()
        if self.write not in _WRITABLE:
            raise fail("write", "is not a network that can be written", f"one of {', '.join(_WRITABLE)}", self.write)
        if self.out is None:
            raise fail("out", "is missing", "a folder for the files", "none")
        if (self.out / "W.npy").exists() and not self.overwrite:
            raise fail("out", "holds a network already", "another folder, or --overwrite", f"{self.out}")
        check_folder(self.out)
        return self._write(self.out)

    def _list(self) -> int:
        from rnn2ff import networks

        names = [name for name in dir(networks) if _comes_with_the_package(name, getattr(networks, name))]
        summaries = {name: getattr(networks, name).__doc__.partition("\n")[0] for name in names}
        record = {name: {"summary": text, "writable": name in _WRITABLE} for name, text in summaries.items()}
        lines = {name: text + (" (--write)" if name in _WRITABLE else "") for name, text in summaries.items()}
        show(lines, record, as_json=self.as_json)
        return 0

    def _write(self, out: Path) -> int:
        import jax.random as jr
        import numpy as np

        from rnn2ff import networks
        from rnn2ff.files import replacing

        randomness = {"key": jr.key(self.seed)} if self.write.startswith("random_") else {}
        network = getattr(networks, self.write)(*_WRITABLE[self.write], **randomness)
        params = network.params
        arrays = {
            "weights": ("W", params.recurrent_weights),
            "stimulus-weights": ("B", params.stimulus_weights),
            "bias": ("b", params.bias),
            "time-constants": ("tau", params.time_constants),
            "stimuli": ("U", jr.uniform(jr.key(self.seed), (_NUM_STIMULI, network.stimulus_size))),
        }
        arrays = {option: named for option, named in arrays.items() if named[1] is not None}
        out.mkdir(parents=True, exist_ok=True)
        for name, array in arrays.values():
            with replacing(out / f"{name}.npy") as temporary, temporary.open("wb") as file:
                np.save(file, np.asarray(array))
        form = "rate" if network.vector_field == networks.RATE_FORM else "state"
        options = " ".join(f"--{option} {shlex.quote(str(out / name))}.npy" for option, (name, _) in arrays.items())
        free = next(f"run{number}" for number in itertools.count(1) if not Path(f"run{number}").exists())
        command = f"rnn2ff distill {options} --form {form} --out {free}"
        lines = {"units": network.state_size, "stimuli": _NUM_STIMULI, "written to": out, "go on with": command}
        show(lines, {"files": [f"{name}.npy" for name, _ in arrays.values()], "command": command}, as_json=self.as_json)
        return 0


def _comes_with_the_package(name: str, value: object) -> bool:
    """Whether a name is that of a function that makes a network without the user's weights or files."""
    returned = getattr(value, "__annotations__", {}).get("return")
    if name.startswith("_") or getattr(returned, "__name__", returned) not in ("RateNetwork", "RecurrentNetwork"):
        return False
    return value.__module__.startswith("rnn2ff.networks.zoo.") or name.startswith("random_")


# Threshold-linear networks, which the files of the command line can hold, and their sizes.
_WRITABLE = {
    "winner_take_all": (8,),
    "partition_competition": (4, 8),
    "ring_attractor": (32,),
    "random_threshold_linear": (64,),
}
