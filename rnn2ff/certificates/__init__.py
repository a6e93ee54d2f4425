"""Proved bounds on the distance to a steady state, and answers that carry them."""

from rnn2ff.certificates.batches import bound_units, certify_predictions, predict_all_units
from rnn2ff.certificates.bounds import Certificate, Theorem, bound_error, certify
from rnn2ff.certificates.constants import Certifier, make_certifier
from rnn2ff.certificates.refinement import refine
from rnn2ff.certificates.serving import Served, Source, predict_or_solve

__all__ = [
    "Certificate",
    "Certifier",
    "Served",
    "Source",
    "Theorem",
    "bound_error",
    "bound_units",
    "certify",
    "certify_predictions",
    "make_certifier",
    "predict_all_units",
    "predict_or_solve",
    "refine",
]
