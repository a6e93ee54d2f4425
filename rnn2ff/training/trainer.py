"""The training recipe: approximators of a given size, and the best at a cost."""

import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jax.sharding import Mesh
from jaxtyping import PRNGKeyArray

from rnn2ff.approximators import Approximator, Refined, TwoLayer, predict
from rnn2ff.data import Pairs, key_for, split_rows
from rnn2ff.networks import RecurrentNetwork
from rnn2ff.steady_state import proved_rate
from rnn2ff.training.boundaries import Boundaries, find_boundaries
from rnn2ff.training.further import Further, exactly
from rnn2ff.training.initialization import initialize_refined, initialize_two_layer
from rnn2ff.training.loop import TrainingRun, train
from rnn2ff.training.mixing import mixing_for
from rnn2ff.training.nrmse import deviation_of
from rnn2ff.training.optimizers import muon
from rnn2ff.training.symmetries import find_symmetries

_VALIDATION_SHARE = 0.1  # as `train` holds out by default
_NUM_INITIAL = 8192  # pairs of the initial fit of the readout
_NUM_INITIAL_AT_BOUNDARIES = 2**15  # the same if each output is fitted only to pairs at which no boundary silences it
_SMALLEST_BATCH, _LARGEST_BATCH = 256, 1024  # powers of two, which devices can share
_MOST_PRODUCTS = 2**25  # of a minibatch above the smallest size: a few milliseconds per step on two cores
_MOST_EVALUATIONS = 20  # the default of `train`
_EVALUATION_COST = 4  # training samples for each evaluated sample, at least

# Of two initializations both are trained for a tenth of the evaluations, and the worse to the end only if their errors
# are closer than this ratio. In eight hard competitions those within 3 % after a tenth were within 5 % in the end, in
# either order, and those farther apart (12 % and more) kept their order.
_SHORT_DIVISOR, _CLOSE_RATIO = 10, 1.05

USUAL_WIDTH = 4  # of two layers, in multiples of the number of rates, which defines the default cost
_MOST_SWEEPS = 8  # of the best at a cost: in small networks sweeps cost little, but take long to compile
_STEPS_THROUGH_SWEEPS = 0.5  # of the steps of two layers: they take longer, and start from a good approximator


class Attempt(NamedTuple):
    """One approximator that was tried.

    Attributes:
        width: hidden units.
        num_sweeps: after the two layers; 0 for two layers alone.
        num_products: products in one call.
        num_training_pairs: pairs trained on.
        training_nrmse: at the last evaluation, over the minibatches before it.
        validation_nrmse: on pairs not trained on.
        seconds: of its initialization and training, compilation included.
    """

    width: int
    num_sweeps: int
    num_products: int
    num_training_pairs: int
    training_nrmse: float
    validation_nrmse: float
    seconds: float

    @property
    def form(self) -> str:
        """Its size in words."""
        counts = {"hidden unit": self.width, "sweep": self.num_sweeps}
        parts = [f"{count} {name}{'' if count == 1 else 's'}" for name, count in counts.items() if count]
        return " and ".join(parts) if len(parts) > 1 else f"{parts[0]} alone"


class Trained(NamedTuple):
    """An approximator, the course of its training, and its size and errors."""

    approximator: Approximator
    run: TrainingRun
    attempt: Attempt


class Trainer:
    """Trains approximators of any size on the same pairs."""

    def __init__(
        self,
        network: RecurrentNetwork,
        pairs: Pairs,
        *,
        num_steps: int,
        bypass: bool = False,
        further: Further | None = None,
        checkpoints: Path | None = None,
        mesh: Mesh | None = None,
        progress: bool = False,
        key: PRNGKeyArray,
    ):
        """Split the pairs, and determine what applies to the network: symmetries, exact mixtures, boundaries.

        Args:
            network: the recurrent network.
            pairs: solved pairs; a tenth are held out for validation.
            num_steps: optimizer steps of each training.
            bypass: whether two layers without sweeps have linear weights from the stimulus to the rates.
            further: draws and solves more pairs, used once training fits its own pairs better than others.
            checkpoints: a folder for the checkpoint of each training, from which it resumes.
            mesh: devices that divide each minibatch, as for `train`.
            progress: whether to show progress bars, on standard error.
            key: a PRNG key.
        """
        kept, held_out = split_rows(len(pairs), _VALIDATION_SHARE, key=key_for(key, "validation"))
        self.network, self.num_steps, self.bypass, self.progress, self.key = network, num_steps, bypass, progress, key
        self.checkpoints, self.mesh, self.further = checkpoints, mesh, further
        self.held_out = pairs.take(held_out)
        self.kept = pairs.take(kept)
        self.deviation = deviation_of(pairs.rates)
        self.symmetries = find_symmetries(network, self.kept.stimuli)
        mixing = mixing_for(network, self.kept.stimuli, self.kept.rates, key=key_for(key, "mixtures"))
        self.mixing, self.stimulus_shift = (None, None) if mixing is None else mixing
        self.boundaries = None
        if self.mixing is None and proved_rate(network) == 0:  # if mixtures are steady states, there are no jumps
            self.boundaries = find_boundaries(network, self.kept, symmetries=self.symmetries)

    def two_layer(self, width: int) -> Trained:
        """Two layers alone. If states jump, two initializations are tried; the one that validates better is kept.

        If a short training already separates them, the worse is not trained further.
        """
        started = time.perf_counter()
        starts = {"plain": self._initialized(width, None)}
        if self.boundaries is not None:
            starts["boundaries"] = self._initialized(width, self.boundaries)
        num_short = self._num_evaluations(starts["plain"], self.num_steps) // _SHORT_DIVISOR
        if len(starts) > 1 and num_short:
            short = {way: self._train_two_layer(start, way, num_short) for way, start in starts.items()}
            errors = {way: trained.attempt.validation_nrmse for way, trained in short.items()}
            largest = _CLOSE_RATIO * min(errors.values())
            starts = {way: start for way, start in starts.items() if not errors[way] > largest}
        best = best_of([self._train_two_layer(start, way) for way, start in starts.items()])
        return best._replace(attempt=best.attempt._replace(seconds=time.perf_counter() - started))

    def _initialized(self, width: int, boundaries: Boundaries | None) -> TwoLayer:
        initial = self.kept.take(slice(_NUM_INITIAL if boundaries is None else _NUM_INITIAL_AT_BOUNDARIES))
        options = {"bypass": self.bypass, "num_rounds": 0, "boundaries": boundaries}
        key = key_for(self.key, f"two layers of {width}")
        return initialize_two_layer(self.network, initial.states, initial.stimuli, width, **options, key=key)

    def _train_two_layer(self, start: TwoLayer, way: str, num_evaluations: int | None = None) -> Trained:
        """Train two layers from an initialization: by default in full, or for some evaluations, as far apart."""
        usual = self._num_evaluations(start, self.num_steps)
        num_steps = -(-self.num_steps // usual) * (usual if num_evaluations is None else num_evaluations)
        data = {"stimuli": self.kept.stimuli, "rates": self.kept.rates}
        optimizer = muon(start, **data, num_steps=num_steps, at_jumps=way == "boundaries")
        name = f"{start.width}-{way}" + ("" if num_evaluations is None else "-short")
        limits = {"num_steps": num_steps, "num_evaluations": num_evaluations or usual}
        return self._train(start, time.perf_counter(), name, optimizer=optimizer, **limits)

    def best_of_its_cost(self, width: int | None = None) -> list[Trained]:
        """Two layers, by default of the usual width, and then, if the same number of products allows any, sweeps."""
        two_layer = self.two_layer(USUAL_WIDTH * self.network.rate_size if width is None else width)
        num_steps = max(1, round(_STEPS_THROUGH_SWEEPS * self.num_steps))
        swept = self.refined_at(two_layer.attempt.num_products, most_sweeps=_MOST_SWEEPS, num_steps=num_steps)
        return [two_layer] if swept is None else [two_layer, swept]

    def refined_at(
        self,
        num_products: int,
        *,
        start: Refined | None = None,
        most_sweeps: int | None = None,
        num_steps: int | None = None,
    ) -> Trained | None:
        """As many sweeps as this number of products allows, or one less, after as many hidden units as the rest allows.

        It often allows few hidden units, or none, before the most sweeps. For some networks that is better, for others
        much worse, before training as well as after. So the form that validates better before is trained, unless an
        approximator of either form, with fewer sweeps, is given to start from. None if no sweep is allowed.
        """
        started = time.perf_counter()
        num_units, stimulus_size = self.network.state_size, self.network.stimulus_size
        most = num_products // num_units**2 - 1
        if most < 1:
            return None
        numbers = [number for number in (most - 1, most) if number > 0]  # if both overflow, the first is taken
        if most_sweeps is not None and most > most_sweeps:
            numbers = [most_sweeps]
        rests = [num_products - (number + 1) * num_units**2 for number in numbers]
        sizes = [(rest // (stimulus_size + num_units), number) for rest, number in zip(rests, numbers)]
        longer = [start.lengthened(number) for width, number in sizes if start is not None and start.width == width]
        starts = longer or [self._initialized_before_sweeps(*size) for size in sizes]
        best = starts[0] if len(starts) == 1 else min(starts, key=self._error_before_training)
        return self._train(best, started, f"{best.width}-{best.num_sweeps}", num_steps=num_steps)

    def refined(self, width: int, num_sweeps: int, start: Refined | None = None) -> Trained:
        """Two layers and sweeps; initialized from an approximator of this width with fewer sweeps, if given."""
        started = time.perf_counter()
        start = self._initialized_before_sweeps(width, num_sweeps) if start is None else start.lengthened(num_sweeps)
        return self._train(start, started, f"{width}-{num_sweeps}")

    def _initialized_before_sweeps(self, width: int, num_sweeps: int) -> Refined:
        initial = self.kept.take(slice(_NUM_INITIAL))
        key = key_for(self.key, f"two layers of {width} before sweeps")
        return initialize_refined(self.network, initial.states, initial.stimuli, width, num_sweeps=num_sweeps, key=key)

    def _error_before_training(self, approximator: Approximator) -> float:
        """The error on validation; infinite if sweeps overflow."""
        with np.errstate(over="ignore", invalid="ignore"):
            differences = np.asarray(predict(approximator, self.held_out.stimuli)) - np.asarray(self.held_out.rates)
            error = float(np.square(differences, dtype=np.float64).mean())
        return error if np.isfinite(error) else np.inf

    def of_size(self, width: int, num_sweeps: int) -> Trained:
        """Two layers, and sweeps if there are any, from scratch."""
        return self.refined(width, num_sweeps) if num_sweeps else self.two_layer(width)

    def _num_evaluations(self, start: Approximator, num_steps: int) -> int:
        num_trained = num_steps * _batch_size(start.num_products, len(self.kept))
        return min(max(1, num_trained // (_EVALUATION_COST * len(self.held_out))), _MOST_EVALUATIONS, num_steps)

    def _train(
        self, start: Approximator, started: float, name: str, *, optimizer=None, num_steps=None, num_evaluations=None
    ) -> Trained:
        num_steps = self.num_steps if num_steps is None else num_steps
        num_pairs = len(self.kept)
        batch_size = _batch_size(start.num_products, num_pairs)
        checkpoint = None if self.checkpoints is None else self.checkpoints / f"training-{name}-{num_pairs}.checkpoint"
        run = train(
            start,
            self.kept.stimuli,
            self.kept.rates,
            num_steps=num_steps,
            batch_size=batch_size,
            optimizer=optimizer,
            num_evaluations=num_evaluations or self._num_evaluations(start, num_steps),
            symmetries=self.symmetries,
            mixing=self.mixing,
            further=None if self.further is None else exactly(self.further, num_pairs),
            validation=(self.held_out.stimuli, self.held_out.rates),
            checkpoint=checkpoint,
            mesh=self.mesh,
            progress=self.progress,
            key=key_for(self.key, "training"),
        )
        deviation = max(self.deviation, float(np.finfo(np.float32).tiny))
        attempt = Attempt(
            width=start.width,
            num_sweeps=0 if isinstance(start, TwoLayer) else start.num_sweeps,
            num_products=start.num_products,
            num_training_pairs=num_pairs,
            training_nrmse=float(np.asarray(run.training_errors)[-1]) ** 0.5 / deviation,
            validation_nrmse=float(np.nanmin(run.validation_errors)) ** 0.5 / deviation,
            seconds=time.perf_counter() - started,
        )
        return Trained(run.approximator, run, attempt)


def _batch_size(num_products: int, num_pairs: int) -> int:
    """The minibatch size: large if that costs little, since many units are each decisive for few samples."""
    batch_size = _SMALLEST_BATCH
    while 2 * batch_size <= min(_LARGEST_BATCH, num_pairs) and 2 * batch_size * num_products <= _MOST_PRODUCTS:
        batch_size *= 2
    return batch_size


def best_of(tried: list[Trained]) -> Trained:
    """The one with the smallest error on validation."""
    return min(tried, key=lambda trained: trained.attempt.validation_nrmse)
