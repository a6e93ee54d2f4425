"""Compute independent rows by an executor: a pool of processes, Dask, or Slurm through submitit. Needs no JAX.

Each row is computed by a call that can be pickled, so that it can run elsewhere. Rows are returned in the order of the
calls, whichever finishes first, and equal those of a run in one process. If a worker dies, its calls are repeated: that
costs time, but no row is lost.
"""

import contextlib
import functools
import itertools
import multiprocessing
import os
import queue
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from types import ModuleType
from typing import Literal, NamedTuple

Call = Callable[[], dict]
Compute = Callable[[Iterable[Call]], Iterator[dict]]
Kind = Literal["serial", "local", "dask", "submitit"]

ANSWER_SECONDS = 30.0  # time for a scheduler to respond and to have a worker; Dask's own default for connections
_MOST_TRIES = 3  # of a call whose worker died
_JOB_MINUTES = 240  # of a job of Slurm, unless SBATCH_TIMELIMIT says otherwise


def serially(calls: Iterable[Call]) -> Iterator[dict]:
    """One row after the other, in this process."""
    return (call() for call in calls)


def num_cores() -> int:
    """The number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextlib.contextmanager
def computing(kind: Kind, *, num_workers: int | None, scheduler: str | None, folder: Path) -> Iterator[Compute]:
    """The function that computes rows, for as long as the context lasts.

    Args:
        kind: of the executor.
        num_workers: processes on this machine; by default one per core.
        scheduler: the address of a Dask scheduler, or a cluster of submitit; by default Dask's workers are processes
            on this machine, and submitit takes Slurm where it is.
        folder: where submitit writes its files.
    """
    if kind == "serial":
        yield serially
        return
    number = num_workers or num_cores()
    open_executor = {
        "local": lambda: _local(number),
        "dask": lambda: _dask(number, scheduler),
        "submitit": lambda: _submitit(scheduler, folder),
    }[kind]
    with open_executor() as executor:
        yield functools.partial(_in_order, executor)


class _Executor(NamedTuple):
    """An executor: how to submit a call, and which errors mean that its worker failed rather than the call."""

    submit: Callable
    is_of_worker: Callable[[BaseException | None], bool]


def _in_order(executor: _Executor, calls: Iterable[Call]) -> Iterator[dict]:
    """The rows of all calls, which are submitted at once; calls whose worker died are submitted again."""
    calls = list(calls)
    futures = [executor.submit(call) for call in calls]

    def is_lost(future) -> bool:
        return future.done() and executor.is_of_worker(future.exception())

    for i, call in enumerate(calls):
        for num_tries in itertools.count(1):
            try:
                row = futures[i].result()
                break
            except Exception as error:
                if not executor.is_of_worker(error):
                    raise
                if num_tries == _MOST_TRIES:
                    msg = f"A row was lost {_MOST_TRIES} times, each time with the worker that computed it: {call}."
                    raise RuntimeError(msg) from error
                futures[i:] = [
                    executor.submit(later_call) if is_lost(future) else future
                    for later_call, future in zip(calls[i:], futures[i:])
                ]
        yield row


@contextlib.contextmanager
def _local(number: int) -> Iterator[_Executor]:
    """A pool of processes, each with its share of the cores. A process that dies ends its pool, which is replaced."""
    context = multiprocessing.get_context("spawn")
    pools = []

    def new() -> ProcessPoolExecutor:
        pools.append(ProcessPoolExecutor(number, context, _keep_to_share, (context.Value("i", 0), number)))
        return pools[-1]

    def submit(call: Call):
        try:
            return pools[-1].submit(call)
        except BrokenProcessPool:
            return new().submit(call)

    new()
    try:
        yield _Executor(submit, lambda error: isinstance(error, BrokenProcessPool))
    finally:
        for pool in pools:
            pool.shutdown(cancel_futures=True)


def _keep_to_share(counter, number: int) -> None:
    """Restrict this process to its share of the cores, before anything starts threads."""
    if not hasattr(os, "sched_setaffinity"):
        return
    with counter.get_lock():
        index, counter.value = counter.value, counter.value + 1
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, cores[index % number :: number] or cores)


@contextlib.contextmanager
def _dask(number: int, scheduler: str | None) -> Iterator[_Executor]:
    """A Dask cluster, which itself repeats the calls of a dead worker."""
    distributed = _import("distributed", "dask")
    with contextlib.ExitStack() as stack:
        if scheduler is None:
            settings = {"n_workers": number, "threads_per_worker": 1, "dashboard_address": None}
            scheduler = stack.enter_context(distributed.LocalCluster(**settings))
        try:
            client = stack.enter_context(_in_time(lambda: distributed.Client(scheduler, timeout=ANSWER_SECONDS)))
            client.wait_for_workers(1, timeout=ANSWER_SECONDS)
        except (OSError, TimeoutError) as error:
            sys.exit(_no_answer(f"a Dask scheduler at {scheduler} with a worker", error))
        yield _Executor(client.get_executor(pure=False).submit, lambda error: False)


@contextlib.contextmanager
def _submitit(cluster: str | None, folder: Path) -> Iterator[_Executor]:
    """One job per row; by Slurm, whose options are set by its own SBATCH_ variables, or on this machine."""
    submitit = _import("submitit", "submitit")
    folder.mkdir(parents=True, exist_ok=True)
    try:
        executor = submitit.AutoExecutor(folder, cluster=cluster)
    except (RuntimeError, ValueError) as error:
        sys.exit(_no_answer("a cluster that submitit can use, such as slurm or local", error))
    executor.update_parameters(timeout_min=_JOB_MINUTES, name="rnn2ff")
    jobs = []

    def submit(call: Call):
        jobs.append(executor.submit(call))
        return jobs[-1]

    errors = submitit.core.utils

    def is_of_worker(error: BaseException | None) -> bool:
        return isinstance(error, errors.UncompletedJobError) and not isinstance(error, errors.FailedJobError)

    try:
        yield _Executor(submit, is_of_worker)
    finally:
        for job in jobs:
            if not job.done():
                job.cancel()


def _in_time(connect: Callable[[], object]) -> object:
    """The result of a call, with a time limit. Dask's own does not cover a server that accepts, but never answers."""
    answer = queue.SimpleQueue()

    def work() -> None:
        try:
            answer.put((connect(), None))
        except (OSError, TimeoutError) as error:
            answer.put((None, error))

    threading.Thread(target=work, daemon=True).start()
    try:
        result, error = answer.get(timeout=ANSWER_SECONDS + 1)  # Dask's limit first, whose error says more
    except queue.Empty:
        raise TimeoutError("no response") from None
    if error is not None:
        raise error
    return result


def _no_answer(expected: str, error: Exception) -> str:
    reason = str(error).strip().partition("\n")[0] or type(error).__name__
    return f"`--executor` finds no workers. Expected {expected} within {ANSWER_SECONDS:g} s, got: {reason}"


def _import(name: str, kind: str) -> ModuleType:
    try:
        return __import__(name)
    except ModuleNotFoundError:
        sys.exit(f"`--executor {kind}` needs the extra `cluster`: pip install 'rnn2ff[cluster]'")
