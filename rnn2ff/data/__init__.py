"""Distributions of stimuli, and pairs of stimuli and steady states: in memory, streamed, on disk."""

from rnn2ff.data.pairs import Pairs as Pairs
from rnn2ff.data.pairs import hold_out as hold_out
from rnn2ff.data.pairs import key_for as key_for
from rnn2ff.data.pairs import sample_stimuli as sample_stimuli
from rnn2ff.data.pairs import solve_pairs as solve_pairs
from rnn2ff.data.pairs import split_rows as split_rows
from rnn2ff.data.pairs import stream_plan as stream_plan
from rnn2ff.data.pairs import stream_steady_states as stream_steady_states
from rnn2ff.data.pairs import take_rows as take_rows
from rnn2ff.data.stimuli import SampleStimulus as SampleStimulus
from rnn2ff.data.stimuli import add as add
from rnn2ff.data.stimuli import bump_stimuli as bump_stimuli
from rnn2ff.data.stimuli import concatenate as concatenate
from rnn2ff.data.stimuli import gaussian_stimuli as gaussian_stimuli
from rnn2ff.data.stimuli import mixture as mixture
from rnn2ff.data.stimuli import sample_from as sample_from
from rnn2ff.data.stimuli import smooth_stimuli as smooth_stimuli
from rnn2ff.data.stimuli import sparse_stimuli as sparse_stimuli
from rnn2ff.data.stimuli import uniform_stimuli as uniform_stimuli
from rnn2ff.data.storage import open_steady_states as open_steady_states
from rnn2ff.data.storage import store_steady_states as store_steady_states
