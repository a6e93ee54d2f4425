"""What `first_call` measures of a call: its seconds, the programs that are compiled meanwhile, and the transfers."""

import contextlib
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

_COMPILED = "/jax/core/compile/backend_compile_duration"  # also where the persistent cache has the program
_CACHE_HIT = "/jax/compilation_cache/cache_hits"
_TO_DEVICE, _TO_HOST = "host-to-device transfer", "device-to-host transfer"  # in the lines of the transfer guard


class Calls(NamedTuple):
    """Measurements of one call.

    Attributes:
        seconds: until its result was available.
        cpu_seconds: of all threads of the process meanwhile.
        programs: compiled by XLA.
        cache_hits: programs that the persistent cache had.
        to_device: transfers from the host.
        to_host: transfers to the host; None on processors, where they are not seen.
    """

    seconds: float
    cpu_seconds: float
    programs: int
    cache_hits: int
    to_device: int
    to_host: int | None


class Watch:
    """Counts programs and cache hits from when it is made, and transfers on request."""

    def __init__(self):
        import jax

        self.num_programs = self.num_hits = 0
        jax.monitoring.register_event_duration_secs_listener(self._note_duration)
        jax.monitoring.register_event_listener(self._note)
        for direction in ("host_to_device", "device_to_host"):
            jax.config.update(f"jax_transfer_guard_{direction}", "log_explicit")  # of all threads
        self.sees_to_host = jax.default_backend() != "cpu"  # and starts the backend

    def _note_duration(self, event: str, seconds: float, **more: object) -> None:
        del seconds, more
        self.num_programs += event == _COMPILED

    def _note(self, event: str, **more: object) -> None:
        del more
        self.num_hits += event == _CACHE_HIT

    def measure(self, call: Callable[[], object]) -> Calls:
        """Call once, and return the measurements."""
        import jax

        before = self.num_programs, self.num_hits
        with _standard_error() as lines:
            started = time.perf_counter(), time.process_time()
            jax.block_until_ready(call())
            seconds, cpu_seconds = time.perf_counter() - started[0], time.process_time() - started[1]
        num_programs, num_hits = self.num_programs - before[0], self.num_hits - before[1]
        to_device, to_host = (sum(direction in line for line in lines) for direction in (_TO_DEVICE, _TO_HOST))
        to_host = to_host if self.sees_to_host else None
        return Calls(seconds, cpu_seconds, num_programs - num_hits, num_hits, to_device, to_host)


@contextlib.contextmanager
def _standard_error() -> Iterator[list[str]]:
    """The lines that are written to standard error meanwhile, also by XLA; those of the guard are not passed on."""
    lines = []
    with tempfile.TemporaryFile() as file:
        sys.stderr.flush()
        terminal = os.dup(2)
        os.dup2(file.fileno(), 2)
        try:
            yield lines
        finally:
            sys.stderr.flush()
            os.dup2(terminal, 2)
            os.close(terminal)
            file.seek(0)
            lines += file.read().decode(errors="replace").splitlines()
            others = [line for line in lines if _TO_DEVICE not in line and _TO_HOST not in line]
            sys.stderr.write("".join(f"{line}\n" for line in others))
