"""`rnn2ff demo`."""

import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rnn2ff.cli.options import (
    Json,
    NetworkFiles,
    OptionalFile,
    OptionalFlag,
    OptionalPath,
    check_folder,
    read_approximator,
    read_network,
    show,
)

if TYPE_CHECKING:
    from rnn2ff.export import Scene

_NUM_SWEEPS = 3  # of the example approximators


@dataclasses.dataclass(frozen=True)
class Demo:
    """Write a web page that shows the two networks side by side.

    Drag a stimulus, and see the recurrent network settle beside the prediction of the feed-forward one. The page is one
    file that needs no network connection. Without an approximator, two small ones are made first, of a competition and
    of a ring, which takes a minute; with one, the page shows it and its network.

    Example: rnn2ff demo --out page

    Example: rnn2ff demo --approximator run1/approximator.safetensors --weights W.npy --stimuli U.npy --out page
    """

    out: Path
    """Folder for the page, index.html; made if it does not exist."""
    approximator: OptionalPath = None
    """The file approximator.safetensors of a distillation."""
    weights: OptionalFile = None
    """Recurrent weights W of its network, as for `rnn2ff distill`."""
    stimuli: OptionalFile = None
    """Stimuli to show, one per row."""
    stimulus_weights: OptionalFile = None
    """Stimulus weights B."""
    bias: OptionalFile = None
    """Constant input b."""
    time_constants: OptionalFile = None
    """Time constants tau."""
    form: Literal["state", "rate"] = "state"
    """Where the rectifier stands, `state` or `rate`."""
    num_steps: int = 5000
    """Optimizer steps of each example."""
    seed: int = 0
    """Seed of the examples."""
    progress: OptionalFlag = True
    """Hide the progress bars, which are shown on standard error where that is a terminal."""
    cache: OptionalFlag = True
    """Keep no compiled programs for the next command."""
    overwrite: bool = False
    """Replace the page if it exists."""
    as_json: Json = False

    def run(self) -> int:
        """Write the page."""
        from rnn2ff._checks import check_at_least, fail
        from rnn2ff.compiling import keep_programs
        from rnn2ff.export import stated_error

        page = self.out / "index.html"
        if page.exists() and not self.overwrite:
            raise fail("out", "holds a page already", "another folder, or --overwrite", f"{page}")
        check_folder(self.out)
        check_at_least("num-steps", self.num_steps, 1)
        options = {"approximator": self.approximator, "weights": self.weights, "stimuli": self.stimuli}
        missing = [name for name, value in options.items() if value is None]
        if missing and len(missing) < len(options):
            raise fail("options", "are incomplete", "all of --approximator, --weights, --stimuli", f"no {missing[0]}")

        if self.cache:
            keep_programs()
        shows_progress = self.progress and sys.stderr.isatty()
        reported_scenes = _made(self.num_steps, self.seed, shows_progress) if missing else [self._given()]
        stated = {scene.title: stated_error({"report": report}) for scene, report in reported_scenes}
        scenes = [_with_error(scene, report, stated[scene.title]) for scene, report in reported_scenes]

        from rnn2ff.export import write_page

        self.out.mkdir(parents=True, exist_ok=True)
        write_page(page, scenes)
        errors = {scene.title: scene.nrmse for scene in scenes}
        lines = {
            f"{name}, {title.lower()}": text
            for title, texts in stated.items()
            for name, text in (texts or {"error": "not in the card"}).items()
        }
        lines |= {"size": f"{page.stat().st_size:,} bytes", "written to": page}
        record = {"nrmse": errors, "stated": stated, "bytes": page.stat().st_size, "written_to": page}
        show(lines, record, as_json=self.as_json)
        return 0

    def _given(self) -> "tuple[Scene, object]":
        names = ("weights", "stimuli", "stimulus_weights", "bias", "time_constants", "form", "cache")
        network, stimuli = read_network(NetworkFiles(**{name: getattr(self, name) for name in names}))
        approximator, card = read_approximator(self.approximator, network)

        from rnn2ff.export import Scene

        text = f"{network.state_size} units, {network.stimulus_size} channels, from {Path(self.weights).name}."
        return Scene("Your network", text, network, approximator, stimuli), card.get("report")


def _with_error(scene: "Scene", report: dict, stated: dict[str, str]) -> "Scene":
    """A scene with the error as its report states it."""
    if not stated:
        return scene
    headline, *tails = stated.items()
    tails = [f"{name}: {text}" for name, text in tails]
    share = headline[1].partition("; ")[2]  # where not all stimuli come to rest
    return scene._replace(nrmse=report["accuracy"]["nrmse"], tails=[*([share] if share else []), *tails])


def _made(num_steps: int, seed: int, shows_progress: bool) -> "list[tuple[Scene, object]]":
    """A competition and a ring, each with an approximator made for it, and its report."""
    import jax.numpy as jnp
    import jax.random as jr

    from rnn2ff.export import Scene
    from rnn2ff.networks import partition_competition, ring_attractor, ring_stimulus
    from rnn2ff.training import distill

    num_competitors, num_angles = 5, 48
    competition = partition_competition(num_competitors, 1, num_inhibitory=1)
    ring = ring_attractor(num_angles)

    def sample_drives(key):
        return jr.uniform(key, (num_competitors,))

    def sample_bump(key):
        angle_key, contrast_key, level_key, noise_key = jr.split(key, 4)
        contrast = jr.uniform(contrast_key, minval=0.5, maxval=1.5)
        bump = ring_stimulus(2 * jnp.pi * jr.uniform(angle_key), num_angles, contrast=contrast)
        return bump + 0.4 * jr.uniform(level_key) * jr.normal(noise_key, (num_angles,))

    texts = {
        "Competition": "Five units excite themselves and inhibit each other through one inhibitory unit (inh.): the "
        "strong silence the weak.",
        "Ring": "Units on a ring excite those near them and inhibit the others: a noisy bump becomes a cleaner one.",
    }
    scenes, settings = [], {"num_samples": 10_000, "num_steps": num_steps, "progress": shows_progress}
    tasks = [("Competition", competition, sample_drives, 24), ("Ring", ring, sample_bump, 96)]
    for title, network, sample, width in tasks:
        distilled = distill(network, sample, width=width, num_sweeps=_NUM_SWEEPS, **settings, key=jr.key(seed))
        scene = Scene(title, texts[title], network, distilled.approximator, distilled.test.stimuli)
        scene = scene._replace(kind="ring") if title == "Ring" else scene._replace(num_labeled=num_competitors)
        scenes.append((scene, distilled.report.summary()))
    return scenes
