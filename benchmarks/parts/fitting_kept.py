"""The rows of the benchmark of fitting that have been computed, on disk."""

import dataclasses
import json
from pathlib import Path

from rnn2ff.files import plain, write_json

_KEPT = Path(__file__).parents[2] / "build" / "fitting" / "rows.json"


class KeptRows:
    """Rows, which are saved to disk as soon as they are computed."""

    def __init__(self, config):
        """Read what an earlier run with the same settings has left, unless the configuration discards it."""
        self.is_on_disk = config.keep
        settings = plain(dataclasses.asdict(config))
        self.settings = {
            name: value for name, value in settings.items() if name.startswith("num_") and name != "num_seeds"
        }
        self.rows: list[dict] = []
        if config.keep and not config.fresh and _KEPT.exists():
            content = json.loads(_KEPT.read_text())
            if content["settings"] != self.settings:
                msg = f"`{_KEPT}` has rows of other settings. Expected {self.settings}, got {content['settings']}."
                raise ValueError(f"{msg} Use --fresh to forget them.")
            self.rows = content["rows"]

    def has(self, target: str, seed: int, method: str) -> bool:
        return any((row["target"], row["seed"], row["method"]) == (target, seed, method) for row in self.rows)

    def add(self, row: dict) -> None:
        self.rows.append(plain(row))
        if self.is_on_disk:
            _KEPT.parent.mkdir(parents=True, exist_ok=True)
            write_json(_KEPT, {"settings": self.settings, "rows": self.rows})
