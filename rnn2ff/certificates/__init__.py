"""Proved bounds on the distance to a steady state, and answers that carry them."""

from rnn2ff.certificates.batches import bound_units as bound_units
from rnn2ff.certificates.batches import certify_predictions as certify_predictions
from rnn2ff.certificates.batches import predict_all_units as predict_all_units
from rnn2ff.certificates.bounds import bound_error as bound_error
from rnn2ff.certificates.bounds import certify as certify
from rnn2ff.certificates.certificate import Certificate as Certificate
from rnn2ff.certificates.certificate import Theorem as Theorem
from rnn2ff.certificates.constants import Certifier as Certifier
from rnn2ff.certificates.constants import make_certifier as make_certifier
from rnn2ff.certificates.refinement import refine as refine
from rnn2ff.certificates.serving import Served as Served
from rnn2ff.certificates.serving import Source as Source
from rnn2ff.certificates.serving import predict_or_solve as predict_or_solve
