"""Recurrent networks: the vector field that a stimulus drives to a steady state."""

from rnn2ff.networks.base import RecurrentNetwork as RecurrentNetwork
from rnn2ff.networks.base import VectorField as VectorField
from rnn2ff.networks.base import residual as residual
from rnn2ff.networks.rate import RateForm as RateForm
from rnn2ff.networks.rate import StateForm as StateForm
from rnn2ff.networks.rate import rate_network as rate_network
from rnn2ff.networks.structured import partition_competition as partition_competition
from rnn2ff.networks.structured import partition_means as partition_means
from rnn2ff.networks.structured import winner_take_all as winner_take_all
from rnn2ff.networks.threshold_linear import random_threshold_linear as random_threshold_linear
from rnn2ff.networks.threshold_linear import threshold_linear as threshold_linear
from rnn2ff.networks.threshold_linear import threshold_linear_rate as threshold_linear_rate
