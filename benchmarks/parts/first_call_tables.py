"""What `first_call` prints: a table of the calls, one of the transfers, and the marks."""

from collections.abc import Iterator

from benchmarks.parts.first_call_cases import DISTILL, JUMPING, PLANNED, SOLVE, SOLVE_BATCH
from benchmarks.parts.marks import marks_table
from experiments._script import table

_MARKS = {  # case -> the call, what of it, what it is called, and the most there may be
    **dict.fromkeys(
        (SOLVE, f"{SOLVE}{PLANNED}", SOLVE_BATCH, f"{SOLVE_BATCH}{PLANNED}"),
        (
            ("first", "programs", "programs of the first call", 6),
            ("first", "seconds", "seconds of the first call", 4.0),
            ("cached", "seconds", "seconds of the first call, with the cache", 1.5),
            ("other", "programs", "programs for another batch size", 0),
        ),
    ),
    **dict.fromkeys((DISTILL, f"{DISTILL}{JUMPING}"), (("first", "programs", "programs of the first call", 25),)),
}


def marks(rows: list[dict]) -> Iterator[dict]:
    """The required and the measured value, and whether the mark is met; of the sizes that the marks were set for."""
    for row in rows:
        for call, name, what, most in _MARKS.get(row["case"], ()):
            if call == "other" and row["case"].startswith(SOLVE_BATCH):
                continue  # it is under `jit`, which compiles for every shape
            received = row["calls"][call][name] if row["kind"] == "measured" else None
            is_met = received is not None and received <= most
            yield {"what": f"{row['case']}: {what}", "bound": "at most", "mark": most, "received": received,
                   "is_met": is_met}  # fmt: skip


def describe(rows: list[dict]) -> str:
    """A table of the calls, one of the transfers, and the marks."""
    header = ["case", "size", "programs", "seconds", "CPU seconds", "second call", "programs", "other size"]
    header += ["programs", "seconds", "with cache", "programs", "cache hits"]
    lines, moved = [], []
    for row in rows:
        if row["kind"] == "not run":
            lines.append([f"{row['case']}: no numbers, {row['reason']}", *"-" * (len(header) - 1)])
            continue
        first, second, other, cached = (row["calls"][which] for which in ("first", "second", "other", "cached"))
        seconds = [f"{call['seconds']:.2f}" for call in (first, second, other, cached)]
        lines.append(
            [
                *(row["case"], row["size"], first["programs"], seconds[0], f"{first['cpu_seconds']:.2f}"),
                *(seconds[1], second["programs"], row["other_size"], other["programs"], seconds[2]),
                *(seconds[3], cached["programs"], cached["cache_hits"]),
            ]
        )
        counts = [call[name] for name in ("to_device", "to_host") for call in (first, second, other)]
        moved.append([row["case"], *("-" if count is None else count for count in counts)])
    parts = [table(header, lines)]
    if moved:
        ways = ("to the device", "to the host")
        calls = [f"{which}, {way}" for way in ways for which in ("first", "second", "other")]
        parts.append(f"Transfers\n\n{table(['case', *calls], moved)}")
    return "\n\n".join([*parts, f"Marks\n\n{marks_table(list(marks(rows)))}"])
