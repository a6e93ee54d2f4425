"""The methods of the benchmark of fitting by name, the marks that were set, and the tables that are printed."""

import numpy as np

from experiments._script import table

TWO_LAYER, EQUAL_COST = "two layers", "with sweeps, at equal cost"
UNTRAINED = "as many sweeps alone, untrained"
WIDE, STARTS = "two layers, 8 N", "two layers, short trainings from many starts"
SWEEPS = {4: "two layers + 4 sweeps", 8: "two layers + 8 sweeps"}
PLAIN_ADAM = "plain Adam"
MLP, FEATURES, LINEAR, NEIGHBORS = "scikit-learn MLPRegressor", "random features + ridge", "linear map", "10 neighbors"
DISTILLED = "distill(tolerance=.05)"
OURS = (TWO_LAYER, EQUAL_COST, WIDE, *SWEEPS.values())
METHODS = (*OURS, UNTRAINED, STARTS, PLAIN_ADAM, MLP, FEATURES, LINEAR, NEIGHBORS, DISTILLED)

# (target, method) -> the largest NRMSE, in percent, of the mean over the seeds.
MARKS = {
    ("random05", TWO_LAYER): 4.2,
    ("random09", TWO_LAYER): 12,
    ("random09", WIDE): 10.8,
    ("large09", TWO_LAYER): 14.5,
    ("soft", TWO_LAYER): 3.8,
    ("hard", TWO_LAYER): 18,
    ("ring", TWO_LAYER): 3.7,
    ("relation", TWO_LAYER): 2.2,
    ("ssn", TWO_LAYER): 1.25,
    ("random05", SWEEPS[4]): 0.05,
    ("random09", SWEEPS[4]): 2.0,
    ("soft", SWEEPS[4]): 0.22,
    ("ring", SWEEPS[4]): 0.3,
    ("ssn", SWEEPS[4]): 0.25,
    ("hard", SWEEPS[4]): 14.5,
    ("random05", SWEEPS[8]): 0.01,
    ("random09", SWEEPS[8]): 0.7,
    ("soft", SWEEPS[8]): 0.02,
    ("ring", SWEEPS[8]): 0.03,
    ("ssn", SWEEPS[8]): 0.07,
    ("hard", SWEEPS[8]): 7,
    ("random09", EQUAL_COST): 1.6,
    ("soft", EQUAL_COST): 0.16,
}
TOLERANCE = 0.05  # of `distill`
LEAST_AGREEMENT = {"soft": ("agreement", 0.992), "hard": ("agreement_above_margin", 0.999)}
_LEAST_SPEED_UP = 4.0
_MOST_SECONDS = 120.0


def marks(rows: list[dict]) -> list[dict]:
    """The required and the measured value, and whether the mark is met."""
    entries = []

    def add(target, what, required, received, is_met):
        entries.append({"target": target, "what": what, "mark": required, "received": received, "is_met": bool(is_met)})

    for (target, method), required in MARKS.items():
        nrmse = [100 * row["nrmse"] for row in rows if (row["target"], row["method"]) == (target, method)]
        if nrmse:
            add(target, f"{method}, NRMSE %", f"<= {required}", float(np.mean(nrmse)), np.mean(nrmse) <= required)
    for target, (name, required) in LEAST_AGREEMENT.items():
        values = [row[name] for row in rows if (row["target"], row["method"]) == (target, TWO_LAYER)]
        if values:
            what = "winners" if name == "agreement" else "winners at a margin above .15"
            add(target, f"{what}, %", f">= {100 * required}", 100 * float(np.mean(values)), np.mean(values) >= required)
    for row in rows:
        if row["method"] == DISTILLED:
            if row["target"] == "hard":
                is_said = (row["reason"] or "").startswith("discontinuous")
                add("hard", f"{DISTILLED} says", "discontinuous", row["reason"] or "nothing", is_said)
            else:
                add(row["target"], f"{DISTILLED}, NRMSE %", "<= 5", 100 * row["nrmse"], row["nrmse"] <= TOLERANCE)
    adams = [row for row in rows if row["method"] == PLAIN_ADAM]
    for target in dict.fromkeys(row["target"] for row in adams):
        for name, state in [("times_sooner", "compiled anew"), ("times_sooner_warm", "compiled before")]:
            values = [row[name] for row in adams if row["target"] == target]
            received = None if None in values else float(np.median(values))
            is_met = received is not None and received >= _LEAST_SPEED_UP
            add(target, f"times sooner at plain Adam's error, {state}", f">= {_LEAST_SPEED_UP:g}", received, is_met)
    slowest = max((row["seconds_with_data"] for row in rows if row["method"] in OURS), default=None)
    if slowest is not None:
        add("all", "seconds of the slowest, data included", f"<= {_MOST_SECONDS:g}", slowest, slowest <= _MOST_SECONDS)
        dead = sum(row["num_dead_units"] for row in rows if row["method"] in (*OURS, STARTS))
        add("all", "dead output units", "<= 0", dead, dead == 0)
    return entries


def describe(rows: list[dict]) -> str:
    """A table for each target, and one of the marks."""
    parts = []
    for target in dict.fromkeys(row["target"] for row in rows):
        parts.append(f"{target}\n\n{_table([row for row in rows if row['target'] == target])}")
    return "\n\n".join([*parts, f"Marks\n\n{_marks_table(marks(rows))}"])


def _table(rows: list[dict]) -> str:
    has_winners = any("agreement" in row for row in rows)
    header = ["method", "NRMSE %", "lowest - highest", "seeds", "worst unit %", "products", "seconds"]
    header += ["winners %", "trivial %", "above .15 %"] if has_winners else []
    lines = []
    for method in METHODS:
        group = [row for row in rows if row["method"] == method]
        if not group:
            continue

        def mean(name, scale=1.0, group=group, digits=".1f"):
            values = [row[name] for row in group if row.get(name) is not None]
            return f"{scale * np.mean(values):{digits}}" if values else "-"

        nrmse = [100 * row["nrmse"] for row in group]
        line = [
            f"**{method}**" if method in OURS else method,
            f"{np.mean(nrmse):.3g}",
            f"{min(nrmse):.3g} - {max(nrmse):.3g}",
            len(group),
            mean("worst_unit_nrmse", 100, digits=".3g"),
            mean("num_products", digits=".0f"),
            mean("seconds"),
        ]
        names = ("agreement", "trivial_agreement", "agreement_above_margin")
        lines.append(line + ([mean(name, 100) for name in names] if has_winners else []))
    return table(header, lines)


def _marks_table(found: list[dict]) -> str:
    def short(value):
        return "-" if value is None else value[:13] if isinstance(value, str) else f"{value:.4g}"

    lines = [
        [
            f"{mark['target']}: {mark['what']}",
            mark["mark"],
            short(mark["received"]),
            "met" if mark["is_met"] else "NOT MET",
        ]
        for mark in found
    ]
    return table(["mark", "required", "measured", ""], lines)
