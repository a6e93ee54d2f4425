"""The methods of this library by name, as `steady_states` times them, and the marks that were set for them."""

ENTRY_POINT = "solve_steady_states"
PLANNED = "solve_steady_states, plan reused"
ENGINE = "solve_batch"  # under `jit`: the engine alone
ENGINE_PLANNED = "solve_batch, plan reused"
WITH_SHARE = (ENTRY_POINT, PLANNED, ENGINE, ENGINE_PLANNED)  # of the GEMM rate

_RATIO_BATCH = 256
# Ratio to the rollout, at this batch: (problem, state size) -> at least.
_RATIO_MARKS = {
    ("gauss09", 128): 20,
    ("pstiff99", 128): 100,
    ("gauss13", 128): 30,
    ("wta", 128): 6,
    ("tanh09", 128): 10,
    ("ssn", 64): 4,
    ("gauss09", 512): 25,
}
GEMM_MARKS = {("gauss09", 128, 4096): 0.5, ("gauss09", 512, 2048): 0.75}  # and batch size -> at least
# Times the plain loop's time: (problem, state size, batch size) -> at most.
LOOP_MARKS = {
    ("gauss09", 128, 256): 1.2,
    ("gauss09", 128, 4096): 0.9,
    ("gauss09", 128, 20_000): 0.6,
    ("gauss09", 512, 2048): 1.1,
    ("pstiff99", 128, 4096): 0.07,
    ("gauss13", 128, 4096): 0.8,
    ("tanh09", 128, 4096): 1.0,
    ("wta", 128, 2048): 0.25,
    ("ssn", 64, 4096): 1.0,
}
_UNPLANNED_MARKS = {256: 2.0, 4096: 1.3, 20_000: 1.3}  # times the time with a plan: batch size -> at most
_AHEAD = 1.5  # times as fast as the best competitor, on half of the problems


def marks(rows: list[dict]) -> list[dict]:
    """The required and the measured value, and whether the mark is met.

    The marks are for the entry point with a plan that was made before, from other stimuli; the values without a plan
    and those of the engine alone are given for comparison.
    """
    entries = []
    where = ("problem", "state_size", "batch_size")
    places: dict[tuple, dict[str, dict]] = {}
    for row in rows:
        if row["method"] in WITH_SHARE and row["kind"] != "not run":
            places.setdefault(tuple(row[name] for name in where), {})[row["method"]] = row

    def add(place, what, required, values, bound="at least"):
        received = values.get(PLANNED)
        is_met = received is not None and (received >= required if bound == "at least" else received <= required)
        entries.append({**dict(zip(where, place)), "what": what, "bound": bound, "mark": required, "received": received,
                      "without_plan": values.get(ENTRY_POINT), "engine": values.get(ENGINE_PLANNED),
                      "is_met": is_met})  # fmt: skip

    for place, group in places.items():

        def add_row(name, what, required, bound="at least", place=place, group=group):
            add(place, what, required, {method: row.get(name) for method, row in group.items()}, bound)

        add_row("share_converged", "share converged", 1.0)
        if place in LOOP_MARKS:
            add_row("times_the_loop", "times the plain loop's time", LOOP_MARKS[place], "at most")
        if place[2] in _UNPLANNED_MARKS:
            pairs = {PLANNED: ENTRY_POINT, ENGINE_PLANNED: ENGINE}
            ratios = {
                planned: group[unplanned]["microseconds"][0] / group[planned]["microseconds"][0]
                for planned, unplanned in pairs.items()
                if planned in group
            }
            add(place, "without a plan, times the time with one", _UNPLANNED_MARKS[place[2]], ratios, "at most")
        if place[2] == _RATIO_BATCH and place[:2] in _RATIO_MARKS:
            add_row("ratio_to_rollout", "ratio to the rollout", _RATIO_MARKS[place[:2]])
        if place[0] == "wta":
            add_row("agreement", "agreement with the rollout", 0.995)
        add_row("ratio_to_best", f"ratio to the best competitor, {group[PLANNED]['best_competitor']}", 1.0)
        if place in GEMM_MARKS:
            add_row("gemm_share", "share of the GEMM rate", GEMM_MARKS[place])

    def share_ahead(method):
        # At the smallest batch, which all competitors take part in.
        smallest = {
            place[:2]: min(candidate[2] for candidate in places if candidate[:2] == place[:2]) for place in places
        }
        ratios = [
            group[method]["ratio_to_best"]
            for place, group in places.items()
            if method in group and place[2] == smallest[place[:2]]
        ]
        return sum(ratio >= _AHEAD for ratio in ratios) / len(ratios) if ratios else None

    most = f"share of problems {_AHEAD} x ahead of the best"
    add(("all", "-", "-"), most, 0.5, {method: share_ahead(method) for method in WITH_SHARE})
    return entries
