"""Checks of arguments, and of libraries that only some functions need.

Each error says what is wrong, what was expected and what was received, before any work is done.

Values can only be checked where they are known: inside `jit`, `vmap` or `grad` an array is a tracer, and checks of
values are skipped, while checks of shapes still apply. JAX is not imported to check plain numbers, so that reading
files and drawing figures do not load it.
"""

import importlib
import sys
from collections.abc import Sequence
from numbers import Integral

import numpy as np

_NUM_NAMED_ROWS = 5  # offending rows that an error lists; it counts the others


def fail(name: str, problem: str, expected: object, received: object) -> ValueError:
    """The error to raise for the argument `name`."""
    return ValueError(f"`{name}` {problem}. Expected {expected}, got {received}.")


def is_known(array: object) -> bool:
    """Whether the values of an array are known now."""
    jax = sys.modules.get("jax")  # without it there are no tracers
    return jax is None or not isinstance(array, jax.core.Tracer)


def check_on_host(name: str, instead: str, *trees: object) -> None:
    """All values in `trees` are known; `instead` says what to use inside a program."""
    jax = sys.modules.get("jax")
    if jax is not None and not all(map(is_known, jax.tree.leaves(trees))):
        raise fail(name, "runs on the host", f"known values; inside `jit`, `vmap` or `grad` {instead}", "tracers")


def check_key(key: object) -> None:
    """A single PRNG key, new-style or legacy."""
    dtype, shape = getattr(key, "dtype", None), getattr(key, "shape", None)
    is_key = (str(dtype).startswith("key<") and shape == ()) or (dtype == np.uint32 and shape == (2,))
    if not is_key:
        raise fail("key", "is not a PRNG key", "one such as `jax.random.key(0)`", repr(key))


def shape_of(name: str, array: object) -> tuple[int, ...]:
    """The shape of an array; anything else, such as ragged rows and SciPy's sparse matrices, is refused."""
    if hasattr(array, "tocsr"):
        raise fail(name, "is sparse", "a dense array (`toarray`)", type(array).__name__)
    try:
        return np.shape(array)
    except ValueError:
        raise fail(name, "is not an array", "rows of the same length", type(array).__name__) from None


def check_one_stimulus(stimulus: object, size: int) -> None:
    """One stimulus, not a batch; to a batch, a function of one sample is applied by `vmap`."""
    shape = shape_of("stimulus", stimulus)
    if len(shape) > 1:
        expected = f"({size},); for a batch, one per row, `jax.vmap(approximator)(stimuli)`"
        raise fail("stimulus", "is not one stimulus", expected, shape)
    check_shape("stimulus", stimulus, (size,))


def check_shape(name: str, array: object, expected: Sequence[int]) -> None:
    shape = shape_of(name, array)
    if shape != tuple(expected):
        raise fail(name, "has the wrong shape", tuple(expected), shape)


def check_array(name: str, array: object, expected: Sequence[int]) -> None:
    """Finite numbers of a shape."""
    check_shape(name, array, expected)
    check_finite(name, array)


def check_units(name: str, values: object, size: int) -> None:
    """A finite number for all units, or one for each."""
    if shape_of(name, values) != ():
        check_shape(name, values, (size,))
    check_finite(name, values)


def check_weights(name: str, weights: object) -> None:
    """A square, finite, two-dimensional matrix, dense or sparse."""
    if hasattr(weights, "tocsr"):
        raise fail(
            name, "is a sparse matrix of SciPy", "a dense array; or call `from_connectome`", type(weights).__name__
        )
    shape = weights.shape if hasattr(weights, "shape") else shape_of(name, weights)
    if len(shape) != 2 or shape[0] != shape[1]:
        raise fail(name, "is not a square matrix", "shape (units, units)", f"shape {shape}")
    if shape[0] == 0:
        raise fail(name, "has no units", "at least one unit", "none")
    check_finite(name, weights.data if hasattr(weights, "todense") else weights)


def check_finite(name: str, array: object) -> None:
    """Every value is a finite number; for a batch, the error names the offending rows."""
    if not is_known(array) or _is_finite_on_its_device(array):
        return
    values = real_numbers(name, array)
    with np.errstate(invalid="ignore", over="ignore"):
        if np.isfinite(np.sum(values)):  # then so is every value; a sum may overflow, and is no proof of the contrary
            return
    bad = ~np.isfinite(values)
    if not bad.any():
        return
    if values.ndim < 2:
        raise fail(name, "holds NaN or infinite values", "finite numbers", f"{bad.sum()} of {bad.size} not finite")
    rows = np.flatnonzero(bad.reshape(bad.shape[0], -1).any(axis=1))
    named = ", ".join(map(str, rows[:_NUM_NAMED_ROWS]))
    others = f" and {len(rows) - _NUM_NAMED_ROWS} more" if len(rows) > _NUM_NAMED_ROWS else ""
    raise fail(name, "holds NaN or infinite values", "finite numbers", f"not finite in rows {named}{others}")


def real_numbers(name: str, array: object) -> np.ndarray:
    """An array of real numbers, finite or not; anything else is refused."""
    shape_of(name, array)
    values = np.asarray(array)
    if not np.issubdtype(values.dtype, np.number):
        raise fail(name, "does not hold numbers", "numbers", f"dtype {values.dtype}")
    if np.issubdtype(values.dtype, np.complexfloating):
        raise fail(name, "holds complex numbers", "real numbers", f"dtype {values.dtype}")
    return values


def _is_finite_on_its_device(array: object) -> bool:
    """Whether an accelerator finds all values finite, which saves a transfer of the array; False on a CPU."""
    jax = sys.modules.get("jax")
    if jax is None or not isinstance(array, jax.Array) or not jax.numpy.issubdtype(array.dtype, jax.numpy.floating):
        return False
    if any(device.platform == "cpu" for device in array.devices()):  # its memory is read in place
        return False
    return bool(jax.numpy.isfinite(array).all())


def require_extra(extra: str, *libraries: str) -> None:
    """Raise a `ModuleNotFoundError` that names the extra, if one of its libraries is missing."""
    for library in libraries:
        try:
            importlib.import_module(library)
        except ModuleNotFoundError as error:
            message = f"This needs {library}. Install the extra {extra}: pip install 'rnn2ff[{extra}]'"
            message += f", or in a checkout pip install -e '.[{extra}]'"
            raise ModuleNotFoundError(message) from error


def check_text(name: str, value: object) -> None:
    if not isinstance(value, str):
        raise fail(name, "is not a string", "a string", repr(value))


def check_positive(name: str, value: object) -> None:
    """A finite value, or an array of them, above zero."""
    check_finite(name, value)
    if is_known(value) and not (np.asarray(value) > 0).all():
        raise fail(name, "is not positive", "values above 0", f"{np.asarray(value).min()}")


def check_numbers(**values: object) -> None:
    """Finite numbers, not arrays, each under its name."""
    for name, value in values.items():
        check_array(name, value, ())


def check_positive_numbers(**values: object) -> None:
    """Finite numbers above zero, each under its name."""
    check_numbers(**values)
    for name, value in values.items():
        check_positive(name, value)


def check_at_least(name: str, value: object, smallest: int) -> int:
    """A whole number no smaller than `smallest`; returned as a Python int, which JAX needs."""
    if not isinstance(value, Integral) or isinstance(value, bool) or value < smallest:
        raise fail(name, "is out of range", f"an integer of at least {smallest}", repr(value))
    return int(value)


def check_sizes(**sizes: object) -> None:
    """Whole numbers of at least 1, each under its name."""
    for name, size in sizes.items():
        check_at_least(name, size, 1)


def check_fraction(name: str, value: float) -> None:
    """A number above 0 and below 1."""
    check_array(name, value, ())
    if not 0 < value < 1:
        raise fail(name, "is out of range", "a number above 0 and below 1", repr(value))


def check_stimulus(stimulus: object, size: int) -> None:
    check_array("stimulus", stimulus, (size,))


def check_stimuli(stimuli: object, size: int, name: str = "stimuli") -> None:
    """A batch of at least one finite row, of the network's stimulus size."""
    shape = shape_of(name, stimuli)
    if len(shape) != 2 or shape[1] != size:
        is_turned = len(shape) == 2 and shape[0] == size
        hint = "; transpose it?" if is_turned else ""
        raise fail(name, "has the wrong shape", f"(samples, {size}): one row per stimulus{hint}", shape)
    if shape[0] == 0:
        raise fail(name, "is empty", "at least one row", "none")
    if size == 0:
        raise fail(name, "is empty", "at least one channel", "none")
    check_finite(name, stimuli)


def smallest_tolerance(dtype: object) -> float:
    """The smallest relative residual that rounding lets a solver of this dtype reach."""
    return 16 * float(np.finfo(dtype).eps)


def check_tolerance(tolerance: float | None, dtype: object) -> float:
    """The tolerance of the relative residual, refused where the dtype cannot reach it.

    The default is 1e-5 in float32, 1e-9 in float64.
    """
    if tolerance is None:
        return 1e-5 if np.finfo(dtype).bits <= 32 else 1e-9
    smallest = smallest_tolerance(dtype)
    check_shape("tolerance", tolerance, ())
    real_numbers("tolerance", tolerance)
    if tolerance >= 1:
        raise fail("tolerance", "takes any state for a state of rest", "less than 1", repr(tolerance))
    if not tolerance >= smallest:
        raise fail(
            "tolerance",
            f"is below what {np.dtype(dtype).name} can reach",
            f"a finite number of at least {smallest:.1e}",
            repr(tolerance),
        )
    return float(tolerance)
