"""Rows that other processes compute for `test_executors`; nothing but Python, so that they start at once."""

import os
import signal
import time
from pathlib import Path


def row(number):
    return {"number": number, "square": number**2}


def row_whose_worker_dies_once(number, folder):
    """The worker of the third row is killed while others are under way; when the row is made again it is not."""
    Path(folder, f"{number}-{os.getpid()}-{time.monotonic_ns()}").touch()
    mark = Path(folder, "dead")
    if number == 2 and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.05)
    return row(number)


def row_whose_worker_dies():
    os.kill(os.getpid(), signal.SIGKILL)


def row_that_fails():
    raise ZeroDivisionError("this row cannot be computed")
