"""From pairs to an evaluated approximator: initialization, losses, training, and error measures."""

from rnn2ff.training.distillation import distill as distill
from rnn2ff.training.evaluation import competition as competition
from rnn2ff.training.evaluation import information_transformation as information_transformation
from rnn2ff.training.evaluation import noise_rejection as noise_rejection
from rnn2ff.training.further import further_pairs as further_pairs
from rnn2ff.training.initialization import fit_readout as fit_readout
from rnn2ff.training.initialization import initialize_refined as initialize_refined
from rnn2ff.training.initialization import initialize_two_layer as initialize_two_layer
from rnn2ff.training.jumps import find_jumps as find_jumps
from rnn2ff.training.loop import TrainingRun as TrainingRun
from rnn2ff.training.loop import train as train
from rnn2ff.training.mixing import exact_pairs as exact_pairs
from rnn2ff.training.mixing import mix_pairs as mix_pairs
from rnn2ff.training.nrmse import Accuracy as Accuracy
from rnn2ff.training.nrmse import accuracy as accuracy
from rnn2ff.training.nrmse import deviation_of as deviation_of
from rnn2ff.training.result import Distillation as Distillation
from rnn2ff.training.symmetries import find_symmetries as find_symmetries
from rnn2ff.training.trainer import Trained as Trained
from rnn2ff.training.trainer import Trainer as Trainer
