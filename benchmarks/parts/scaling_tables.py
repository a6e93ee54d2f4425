"""The tables of `scaling`, computed from its rows without JAX."""

from experiments._script import table


def describe(rows: list[dict]) -> str:
    """A table of exponents, and one for each axis."""
    parts = []
    for row in rows:
        if row["kind"] == "device":
            parts.append(
                f"{row['num_threads']} threads: {row['bytes_per_second'] / 1e9:.1f} GB/s, "
                f"{row['operations_per_second'] / 1e9:.0f} GFLOP/s in a large product"
            )
    exponents = [row for row in rows if row["kind"] == "exponent"]
    if exponents:
        parts.append(f"Exponents of the time for one stimulus\n\n{_exponents(exponents)}")
    timed = [row for row in rows if "microseconds" in row]
    for axis in dict.fromkeys(row["axis"] for row in timed):
        parts.append(f"Along: {axis}\n\n{_axis(axis, [row for row in timed if row['axis'] == axis])}")
    return "\n\n".join(parts)


def _exponents(rows: list[dict]) -> str:
    lines = [
        [
            f"{row['method']} against {row['axis']}",
            f"{row['exponent']:.2f}",
            f"{row['interval'][0]:.2f} to {row['interval'][1]:.2f}",
            f"{row['range'][0]:g} to {row['range'][1]:g}",
        ]
        for row in rows
    ]
    return table(["", "exponent", "95 % interval", "fitted over"], lines)


def _axis(axis: str, rows: list[dict]) -> str:
    header = ["method", axis, "us a stimulus", "quartiles", "converged", "steps", "of products", "of bytes",
              "of operations"]  # fmt: skip
    lines = []
    for row in rows:
        median, lower, upper = row["microseconds"]
        steps, floors = row.get("num_steps"), row.get("floors", {})
        lines.append(
            [
                row["method"] + ("" if row["num_samples"] == row["batch_size"] else f" ({row['num_samples']} samples)"),
                f"{row['value']:g}",
                f"{median:.3g}",
                f"{lower:.3g} - {upper:.3g}",
                _percent(row.get("share_converged")),
                "-" if steps is None else f"{steps[1]} ({steps[0]} - {steps[2]})",
                *(_percent(floors.get(name)) for name in ("products", "bytes", "operations")),
            ]
        )
    return table(header, sorted(lines, key=lambda line: line[0]))


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.3g} %"
