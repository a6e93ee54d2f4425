"""The command line, one module a command. It reads and writes files, and computes nothing itself."""

import sys
from typing import Annotated

import tyro

from rnn2ff.cli.bench import Bench
from rnn2ff.cli.certify import Certify
from rnn2ff.cli.demo import Demo
from rnn2ff.cli.distill import Distill
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
)

_DESCRIPTION = """Feed-forward networks that stand in for the steady states of recurrent ones.

Results go to standard output, as a table or with --json; progress and mistakes to standard error. Exit codes: 0 when
the work is done, 1 when nothing came of it, 2 when it was asked wrongly, 130 when it was interrupted. Whatever happens,
a file is written whole or not at all. For completion by the shell: rnn2ff --tyro-print-completion bash"""


def main() -> None:
    """Run a command, and exit with its code."""
    command = tyro.cli(Command, prog="rnn2ff", description=_DESCRIPTION, config=(tyro.conf.FlagCreatePairsOff,))
    try:
        code = command.run()
    except (ValueError, ModuleNotFoundError) as error:
        code = _complain(2, f"error: {error}")
    except RuntimeError as error:
        code = _complain(1, f"error: {error}")
    except OSError as error:
        code = _complain(1, f"error: the results could not be written: {error}")
    except KeyboardInterrupt:
        code = _complain(130, "interrupted before the results were complete")
    if code:
        sys.exit(code)


def _complain(code: int, message: str) -> int:
    print(f"rnn2ff: {message}", file=sys.stderr)
    return code
