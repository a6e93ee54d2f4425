"""From pairs to a judged approximator: where training starts, what it minimizes, how it is measured."""

from rnn2ff.training.distillation import distill
from rnn2ff.training.evaluation import accuracy, competition, information_transformation, noise_rejection
from rnn2ff.training.initialization import fit_readout, initialize_refined, initialize_two_layer
from rnn2ff.training.loop import TrainingRun, train
from rnn2ff.training.mixing import exact_pairs, mix_pairs
from rnn2ff.training.optimizers import adam
from rnn2ff.training.result import Distillation
from rnn2ff.training.symmetries import find_symmetries
from rnn2ff.training.trainer import Trained, Trainer

__all__ = [
    "Distillation",
    "Trained",
    "Trainer",
    "TrainingRun",
    "accuracy",
    "adam",
    "competition",
    "distill",
    "exact_pairs",
    "find_symmetries",
    "fit_readout",
    "information_transformation",
    "initialize_refined",
    "initialize_two_layer",
    "mix_pairs",
    "noise_rejection",
    "train",
]
