"""`rnn2ff export`."""

import dataclasses
import functools
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from rnn2ff.cli.options import Json, OptionalFile, check_folder, read_approximator, show

if TYPE_CHECKING:
    import numpy as np

    from rnn2ff.approximators import Approximator
    from rnn2ff.training import Accuracy

Route = Literal["onnx", "onnx-int8", "c", "c-int8", "c-int16", "stablehlo", "torch", "nir", "mat"]
NEED_STIMULI = ("onnx-int8", "c-int8", "c-int16")


@dataclasses.dataclass(frozen=True)
class Export:
    """Export an approximator to the formats of other platforms.

    Routes, and the file each writes: onnx, NAME.onnx; onnx-int8, NAME_int8.onnx; c, NAME.h; c-int8, NAME_int8.h,
    and c-int16, NAME_int16.h, twice as large and nearly exact; stablehlo, NAME.stablehlo; torch,
    NAME_torch.safetensors; nir, NAME.nir; mat, NAME.mat, the matrices for MATLAB. docs/deploy.md says how each is used.
    The integer routes need stimuli for calibration. With stimuli, the error that a route adds is measured
    and shown. The routes onnx and onnx-int8 need the extra onnx, nir the extra nir; the others need nothing more.

    Example: rnn2ff export --approximator run1/approximator.safetensors --to onnx-int8 c --stimuli U.npy --out deploy
    """

    approximator: Path
    """The file approximator.safetensors of a distillation."""
    to: Annotated[tuple[tuple[Route, ...], ...], tyro.conf.UseAppendAction]
    """One route or several."""
    out: Path
    """Folder for the files; made if it does not exist."""
    stimuli: OptionalFile = None
    """Stimuli, one per row, from the distribution the approximator will serve."""
    name: str = "rnn2ff"
    """Name of the files, and prefix of the names in C: lower-case letters, digits and _."""
    opset: int = 17
    """Version of ONNX's operators."""
    overwrite: bool = False
    """Replace files that exist."""
    as_json: Json = False

    @property
    def _routes(self) -> list[Route]:
        """The routes, each once, whether they follow one --to or several."""
        return list(dict.fromkeys(route for routes in self.to for route in routes))

    def run(self) -> int:
        """Export all files to a temporary folder, then move them into place."""
        from rnn2ff._checks import check_stimuli, fail

        if not self._routes:
            raise fail("to", "is empty", "at least one route", "none")
        files = {route: self.out / _file_name(route, self.name) for route in self._routes}
        there = [str(file) for file in files.values() if file.exists()]
        if there and not self.overwrite:
            raise fail("out", "holds the files already", "another folder, or --overwrite", ", ".join(there))
        check_folder(self.out)
        if self.stimuli is None and set(self._routes) & set(NEED_STIMULI):
            needing = ", ".join(route for route in self._routes if route in NEED_STIMULI)
            raise fail("stimuli", "are missing", f"a file, to set the ranges of {needing}", "none")

        import jax

        from rnn2ff.files import read_array

        jax.config.update("jax_enable_x64", True)  # weights keep the precision they have in the file
        stimuli = None if self.stimuli is None else read_array(self.stimuli, "stimuli")
        approximator, card = read_approximator(self.approximator)
        if stimuli is not None:
            check_stimuli(stimuli, approximator.stimulus_size)
        folder = next(folder for folder in (self.out, *self.out.parents) if folder.exists())
        with tempfile.TemporaryDirectory(dir=folder, prefix=".rnn2ff.") as temporary:
            drafts = {route: Path(temporary) / file.name for route, file in files.items()}
            rows = {route: self._export(route, approximator, card, stimuli, path) for route, path in drafts.items()}
            self.out.mkdir(parents=True, exist_ok=True)
            for route, file in files.items():
                os.replace(drafts[route], file)
        lines = {
            str(files[route]): f"{row['bytes']:>9,} bytes"
            + ("" if row["added"] is None else f"   {100 * row['added'].nrmse:.2g} % (NRMSE) added")
            + (f"   {row['flash_bytes']:,} of flash, {row['ram_bytes']:,} of RAM" if "flash_bytes" in row else "")
            for route, row in rows.items()
        }
        for route, row in rows.items():
            if row["added"] is not None:
                lines |= {f"{files[route].name}, {name}": text for name, text in row["added"].lines().items()}
        show(lines, {"routes": rows, "written_to": self.out}, as_json=self.as_json)
        return 0

    def _export(
        self, route: str, approximator: "Approximator", card: dict, stimuli: "np.ndarray | None", path: Path
    ) -> dict[str, object]:
        """Write one file; returns its size and, where there are stimuli, the error that the route adds."""
        from rnn2ff import export
        from rnn2ff.records import in_percent

        row, added = {}, None
        if route in ("onnx", "onnx-int8"):
            content = export.to_onnx(approximator, opset=self.opset)
            content = content if route == "onnx" else export.quantize_onnx(content, stimuli)
            content = export.named_onnx(content, card)
            path.write_bytes(content)
            added = _added_error(functools.partial(export.run_onnx, content), approximator, stimuli)
        elif route in ("c", "c-int8", "c-int16"):
            model, notes = approximator, []
            if route != "c":
                model = export.quantize(approximator, stimuli, weight_bits=int(route.removeprefix("c-int")))
                added = _added_error(model.predict, approximator, stimuli)
            row = export.footprint(model)._asdict()
            if added is not None:
                tails = "; ".join(f"{name} {text}" for name, text in added.lines().items())
                notes = [
                    f"Integer arithmetic adds {in_percent(added.nrmse)} % (NRMSE), on {len(stimuli)} stimuli;",
                    tails,
                ]
            path.write_text(export.to_c(model, name=path.stem, card=card, test_stimuli=stimuli, notes=notes))
        elif route == "stablehlo":
            path.write_bytes(export.to_stablehlo(approximator))
        else:
            writers = {"mat": export.write_mat, "torch": export.write_torch, "nir": export.write_nir}
            writers[route](path, approximator)
        return {"bytes": path.stat().st_size, "added_error": added and added.nrmse, "added": added, **row}


def _file_name(route: str, name: str) -> str:
    kind, _, bits = route.partition("-")
    return name + (f"_{bits}" if bits else "") + {"c": ".h", "torch": "_torch.safetensors"}.get(kind, f".{kind}")


def _added_error(
    predict: "Callable[[np.ndarray], np.ndarray]", approximator: "Approximator", stimuli: "np.ndarray | None"
) -> "Accuracy | None":
    """The error of the rates of an export with respect to those of the approximator.

    None if there are no stimuli, or the rates of the approximator never vary.
    """
    if stimuli is None:
        return None

    import jax.numpy as jnp
    import numpy as np

    from rnn2ff import approximators
    from rnn2ff.export import dtype_of
    from rnn2ff.training import accuracy

    expected = np.asarray(approximators.predict(approximator, jnp.asarray(stimuli, dtype_of(approximator))))
    if not np.ptp(expected, axis=0).any():  # a single stimulus has no variation to scale the error by
        return None
    return accuracy(predict(stimuli), expected)
