"""All commands."""

from rnn2ff.cli.bench import Bench
from rnn2ff.cli.certify import Certify
from rnn2ff.cli.demo import Demo
from rnn2ff.cli.distill import Distill
from rnn2ff.cli.doctor import Doctor
from rnn2ff.cli.evaluate import Evaluate
from rnn2ff.cli.export import Export
from rnn2ff.cli.fixed_points import FixedPoints
from rnn2ff.cli.networks import Networks
from rnn2ff.cli.solve import Solve

# Each command is a frozen dataclass: its fields are the options, and `run` returns the exit code. The name of the class
# becomes that of the command, as in `fixed-points`.
Command = Networks | Solve | FixedPoints | Distill | Evaluate | Certify | Export | Bench | Demo | Doctor
