"""Distributions of stimuli, and pairs of stimuli and steady states: in memory, streamed, on disk."""

from rnn2ff.data.pairs import (
    Pairs,
    check_pairs,
    hold_out,
    key_for,
    sample_stimuli,
    solve_pairs,
    split_rows,
    stream_steady_states,
    take_rows,
)
from rnn2ff.data.stimuli import (
    SampleStimulus,
    add,
    bump_stimuli,
    concatenate,
    gaussian_stimuli,
    mixture,
    sample_from,
    smooth_stimuli,
    sparse_stimuli,
    uniform_stimuli,
)
from rnn2ff.data.storage import open_steady_states, store_steady_states

__all__ = [
    "Pairs",
    "SampleStimulus",
    "add",
    "bump_stimuli",
    "check_pairs",
    "concatenate",
    "gaussian_stimuli",
    "hold_out",
    "key_for",
    "mixture",
    "open_steady_states",
    "sample_from",
    "sample_stimuli",
    "smooth_stimuli",
    "solve_pairs",
    "split_rows",
    "sparse_stimuli",
    "store_steady_states",
    "stream_steady_states",
    "take_rows",
    "uniform_stimuli",
]
