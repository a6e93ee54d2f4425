"""The marks that were set for certificates and for answers with a guarantee."""

_MANY = 1_000_000  # certified predictions without a violation, in each precision
_LOOSEST = {"random05": 3, "soft": 10}  # median of a bound over the true error
_SERVED_WITHIN, _FAST, _LEAST_RATIO, _LEAST_RATIO_ELSEWHERE = 1e-2, ("random05", "ring", "ssn"), 3, 0.9


def marks(rows: list[dict]) -> list[dict]:
    """The required and the measured value, and whether the mark is met."""
    entries = []

    def add(target, what, required, received, is_met):
        entries.append({"target": target, "what": what, "mark": required, "received": received, "is_met": bool(is_met)})

    verified, bounds, served = (
        [row for row in rows if row["what"] == kind] for kind in ("verified", "bounds", "served")
    )
    for precision in ("float32", "float64"):
        these = [row for row in verified if row["precision"] == precision]
        certified, violations = (sum(row[field] for row in these) for field in ("certified", "violations"))
        is_met = violations == 0 and certified >= _MANY
        add("all", f"violations in {certified:,} certified, {precision}", f"0 in {_MANY:,}", violations, is_met)
    wrong = sum(row["wrongly_exact"] for row in verified)
    add("all", f"wrong in {sum(row['exact'] for row in verified):,} called exact", "0", wrong, wrong == 0)
    for name, most in _LOOSEST.items():
        for row in bounds:
            if row["target"] == name and row["everywhere_over_error"] is not None:
                ratio = row["everywhere_over_error"][0]
                what = f"median bound everywhere over error, {row['approximator']}"
                add(name, what, f"<= {most}", ratio, ratio <= most)
    best: dict[str, float] = {}  # the better of the approximators
    for row in served:
        if row["tolerance"] == _SERVED_WITHIN:
            best[row["target"]] = max(row["ratio_to_solver"], best.get(row["target"], 0))
    for name, ratio in best.items():
        least = _LEAST_RATIO if name in _FAST else _LEAST_RATIO_ELSEWHERE
        add(name, f"times faster than the solver, within {_SERVED_WITHIN:g}", f">= {least}", ratio, ratio >= least)
    return entries
