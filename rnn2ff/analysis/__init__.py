"""What a network does around its fixed points: lists of them, their stability, and the completeness of a list."""

from rnn2ff.analysis.fixed_points import FixedPoints as FixedPoints
from rnn2ff.analysis.fixed_points import find_fixed_points as find_fixed_points
from rnn2ff.analysis.index import Audit as Audit
from rnn2ff.analysis.linearization import linearize as linearize
from rnn2ff.analysis.linearization import velocities_on_plane as velocities_on_plane
