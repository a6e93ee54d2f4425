"""All commands."""

from typing import Annotated

import tyro

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

# Each command is a frozen dataclass: its fields are the options, and `run` returns the exit code.
Command = (
    Annotated[Networks, tyro.conf.subcommand("networks")]
    | Annotated[Solve, tyro.conf.subcommand("solve")]
    | Annotated[FixedPoints, tyro.conf.subcommand("fixed-points")]
    | Annotated[Distill, tyro.conf.subcommand("distill")]
    | Annotated[Evaluate, tyro.conf.subcommand("evaluate")]
    | Annotated[Certify, tyro.conf.subcommand("certify")]
    | Annotated[Export, tyro.conf.subcommand("export")]
    | Annotated[Bench, tyro.conf.subcommand("bench")]
    | Annotated[Demo, tyro.conf.subcommand("demo")]
    | Annotated[Doctor, tyro.conf.subcommand("doctor")]
)
