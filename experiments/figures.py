"""Draw the figures again from the records alone: `python -m experiments.figures` draws all of them."""

import importlib
import json
import pkgutil
from pathlib import Path

from experiments import drawings
from rnn2ff.plotting import save_figure

_HERE = Path(__file__).parent
NAMES = sorted(module.name for module in pkgutil.iter_modules(drawings.__path__) if not module.name.startswith("_"))


def main() -> None:
    """Draw every figure whose record exists."""
    for name in NAMES:
        path = _HERE / "results" / f"{name}.json"
        if path.is_file():
            figure = importlib.import_module(f"experiments.drawings.{name}").draw(json.loads(path.read_text()))
            for ending in ("png", "pdf"):
                save_figure(figure, _HERE / "figures" / f"{name}.{ending}")
            print(_HERE / "figures" / f"{name}.png")


if __name__ == "__main__":
    main()
