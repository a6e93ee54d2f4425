"""Files of every kind that the library reads, changed and truncated, and what reading them must never do."""

import itertools
import re
import signal
import sys
import tempfile
import threading
import tracemalloc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from benchmarks.parts.trials import IN_ONE_SENTENCE
from benchmarks.parts.valid_files import KINDS, Kind, make_kinds

_LONGEST_SECONDS = 10.0  # reading a file of some kilobytes that takes longer counts as a hang
FORBIDDEN = ("pickle.find_class", "os.system", "subprocess.Popen", "socket.connect", "os.exec", "os.posix_spawn")
FAULTS = ("another error", "no sentence", "wrong content", "hang", "too much memory", "code or network")


class Outcome(NamedTuple):
    """The outcome of reading a changed file: `refused`, `read`, or a fault."""

    what: str
    detail: str = ""


# --- what is done to them ---------------------------------------------------------------------------------------------

_NUMBER = re.compile(rb"\d+")
_LARGE = (b"1000000000000", b"999999999", b"-1", b"0", b"4294967296")


def changed(whole: bytes, rng: np.random.Generator) -> bytes:
    """The content of a file after one accident: truncated, bytes changed, lost or doubled, or a number enlarged."""
    place, length = int(rng.integers(len(whole))), 1 + int(rng.geometric(0.1))
    accident = rng.integers(7)
    if accident == 0:
        return whole[:place]
    if accident == 1:
        return whole[:place] + rng.bytes(length) + whole[place + length :]
    if accident == 2:
        return whole[:place] + bytes([whole[place] ^ (1 << int(rng.integers(8)))]) + whole[place + 1 :]
    if accident == 3:
        return whole[:place] + whole[place + length :]
    if accident == 4:
        return whole[:place] + whole[place : place + length] + whole[place:]
    if accident == 5:
        numbers = list(_NUMBER.finditer(whole))
        if numbers:
            chosen = numbers[rng.integers(min(len(numbers), 40))]  # those of the header
            return whole[: chosen.start()] + _LARGE[rng.integers(len(_LARGE))] + whole[chosen.end() :]
    width = int(rng.choice([1, 2, 4, 8]))
    return (
        whole[:place]
        + int(rng.choice([0, 2 ** (8 * width - 1) - 1])).to_bytes(width, "little")
        + whole[place + width :]
    )


# --- what reading them does -------------------------------------------------------------------------------------------


class _Watch:
    """Records Python's audit events of code and network while it is on. An audit hook cannot be removed."""

    is_on = False
    seen: tuple[str, ...] = ()
    is_installed = False

    @classmethod
    def install(cls) -> None:
        if not cls.is_installed:
            sys.addaudithook(cls._note)
            cls.is_installed = True

    @classmethod
    def _note(cls, event: str, arguments: object) -> None:
        del arguments
        if cls.is_on and event.startswith(FORBIDDEN):
            cls.seen += (event,)


@contextmanager
def _watched() -> Iterator[None]:
    _Watch.install()
    _Watch.seen, _Watch.is_on = (), True
    try:
        yield
    finally:
        _Watch.is_on = False


@contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    def stop(number: int, frame: object) -> None:
        raise _TooLongError

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


class _TooLongError(BaseException):
    pass


def attempt(kind: Kind, expected: object) -> Outcome:
    """Read a changed file, and classify the outcome."""
    num_bytes = kind.path.stat().st_size
    tracemalloc.reset_peak()
    before = tracemalloc.get_traced_memory()[0]
    outcome = Outcome("read")
    with _watched():
        try:
            with _time_limit(_LONGEST_SECONDS):
                received = kind.read()
        except (ValueError, OSError) as error:
            outcome = Outcome("refused")
            if not IN_ONE_SENTENCE.match(str(error)):
                outcome = Outcome("no sentence", repr(error))
        except _TooLongError:
            outcome = Outcome("hang")
        except Exception as error:  # any other error is a fault to report
            outcome = Outcome("another error", repr(error))
        else:
            if kind.is_sealed and not same(received, expected):
                outcome = Outcome("wrong content")
    peak = tracemalloc.get_traced_memory()[1] - before
    if peak > 2 * num_bytes + kind.free_bytes:
        outcome = Outcome("too much memory", f"{peak} bytes for a file of {num_bytes}")
    return Outcome("code or network", " ".join(_Watch.seen)) if _Watch.seen else outcome


def same(one: object, other: object) -> bool:
    """Whether two results hold the same bytes."""
    leaves, others = jax.tree.leaves(one), jax.tree.leaves(other)
    return len(leaves) == len(others) and all(
        np.asarray(leaf).tobytes() == np.asarray(other_leaf).tobytes() for leaf, other_leaf in zip(leaves, others)
    )


def attack(num_files: int, seed: int, kinds: Sequence[str] = KINDS) -> list[dict]:
    """Change files of all kinds in turns, and count the outcomes of reading them."""
    with tempfile.TemporaryDirectory() as folder:
        chosen = make_kinds(Path(folder), kinds)
        rows = {name: {"what": name, "counts": {}, "faults": []} for name in chosen}
        contents = {name: kind.path.read_bytes() for name, kind in chosen.items()}
        expected = {name: kind.read() for name, kind in chosen.items()}
        tracemalloc.start()
        try:
            for number, name in zip(range(num_files), itertools.cycle(chosen)):
                kind, row = chosen[name], rows[name]
                content = changed(contents[name], np.random.default_rng([seed, number]))
                kind.path.write_bytes(content)
                outcome = attempt(kind, expected[name])
                row["counts"][outcome.what] = row["counts"].get(outcome.what, 0) + 1
                if outcome.what in FAULTS:
                    row["faults"].append({"seed": [seed, number], **outcome._asdict()})
                kind.path.write_bytes(contents[name])
        finally:
            tracemalloc.stop()
    return list(rows.values())
