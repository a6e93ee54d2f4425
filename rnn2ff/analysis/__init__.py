"""What a network does around its fixed points: lists of them, their stability, and the completeness of a list."""

from rnn2ff.analysis.fixed_points import FixedPoints, find_fixed_points
from rnn2ff.analysis.index import Audit
from rnn2ff.analysis.linearization import linearize, velocities_on_plane

__all__ = [
    "Audit",
    "FixedPoints",
    "find_fixed_points",
    "linearize",
    "velocities_on_plane",
]
