"""`rnn2ff doctor`."""

import dataclasses
import importlib.util
import os
from pathlib import Path

from rnn2ff.cli.options import Json, show

# Extras, and the libraries whose presence shows that they are installed.
EXTRAS = {
    "plot": ("matplotlib",),
    "onnx": ("onnx", "onnxruntime"),
    "nir": ("nir",),
    "hdf5": ("h5py",),
    "experiments": ("matplotlib", "sklearn"),
    "cluster": ("dask", "submitit"),
}
_ACCELERATORS = {"nvidia": (Path("/proc/driver/nvidia/version"), "cuda13"), "TPU": (Path("/dev/accel0"), "tpu")}
_CLOSE = 1e-4  # largest error of a solve in float32


@dataclasses.dataclass(frozen=True)
class Doctor:
    """Report what is installed, where compiled programs are kept, and whether a small network is solved correctly.

    The exit code is 0 if it is, whatever extras are missing; 1 if it is not, or what the library needs is missing.

    Example: rnn2ff doctor
    """

    as_json: Json = False

    def run(self) -> int:
        """Check the installation, solve a network, and report problems with their remedy."""
        missing = [name for name in ("jaxlib", "equinox", "diffrax", "optimistix", "optax", "scipy") if not _has(name)]
        if missing:
            raise RuntimeError(f"{', '.join(missing)} cannot be found. Install again: pip install --upgrade rnn2ff")

        import jax

        from rnn2ff import __version__
        from rnn2ff.compiling import keep_programs, program_folder
        from rnn2ff.records import environment, timed

        keep_programs()
        machine = environment()
        versions = {name: version or "unknown" for name, version in machine["versions"].items()}
        versions["rnn2ff"] = __version__  # of the code that runs
        extras = {name: [library for library in libraries if not _has(library)] for name, libraries in EXTRAS.items()}
        folder = Path(jax.config.jax_compilation_cache_dir or program_folder())
        cache = {"folder": folder, **_contents(folder)}
        advice = _advice(machine["platform"])
        flaw, seconds = timed(_flaw)
        lines = {
            **versions,
            "device": f"{machine['device']} ({machine['platform']}){f'; {advice}' if advice else ''}",
            "processor": f"{machine['processor']}, {machine['num_threads']} of {machine['num_cores']} cores",
            **{f"extra {name}": _described(name, lacks) for name, lacks in extras.items()},
            "compiled programs": f"{cache['num_files']} in {folder}, {cache['megabytes']:.1f} MB"
            + ("" if cache["is_writable"] else "; cannot be written to, so that every command compiles anew"),
            "self test": f"{flaw or 'passed'}, {seconds:.1f} s",
        }
        record = {
            "environment": machine,
            "missing": extras,
            "cache": cache,
            "advice": advice,
            "self_test": {"flaw": flaw, "seconds": seconds},
        }
        show(lines, record, as_json=self.as_json)
        return 1 if flaw else 0


def _has(library: str) -> bool:
    return importlib.util.find_spec(library) is not None


def _described(extra: str, lacks: list[str]) -> str:
    return f"{', '.join(lacks)} missing: pip install 'rnn2ff[{extra}]'" if lacks else "installed"


def _contents(folder: Path) -> dict[str, object]:
    """How many programs are kept, and whether more can be."""
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    sizes = [file.stat().st_size for file in folder.iterdir() if file.is_file()] if folder.is_dir() else []
    return {
        "num_files": len(sizes),
        "megabytes": sum(sizes) / 1e6,
        "is_writable": existing.is_dir() and os.access(existing, os.W_OK),
    }


def _advice(platform: str) -> str | None:
    """What to install for an accelerator that JAX does not use; None if there is none."""
    for name, (sign, extra) in _ACCELERATORS.items():
        if platform == "cpu" and sign.exists():
            return f"there is an {name} accelerator that JAX does not use: pip install 'rnn2ff[{extra}]'"
    return None


def _flaw() -> str | None:
    """The error of a solve with a known result, two units that inhibit each other; None if it is right."""
    import numpy as np

    from rnn2ff.networks import threshold_linear
    from rnn2ff.steady_state import solve_steady_state

    weights, stimulus = np.array([[0.2, -0.5], [-0.3, 0.1]], np.float32), np.array([1.0, 1.5], np.float32)
    solved = solve_steady_state(threshold_linear(weights), stimulus, throw=False)
    expected = np.linalg.solve(np.eye(2) - weights, stimulus)  # both units are active
    error = float(np.abs(np.asarray(solved.state) - expected).max())
    if solved.verdict == "converged" and error < _CLOSE:
        return None
    return f"failed: a network of two units is {solved.verdict}, and {error:.2g} from its steady state"
