"""The command line, one module for each command. It reads and writes files; the library computes."""

import os
import sys

_DESCRIPTION = """Feed-forward networks that stand in for the steady states of recurrent ones.

Results go to standard output, as a table or with --json; progress and errors to standard error. Exit codes: 0 for
success, 1 for a run without a result, 2 for invalid arguments, 130 for an interruption. A file is written completely or
not at all. Compiled programs are kept in the cache folder of the user, so that later commands start faster; --no-cache
keeps none. For the version: rnn2ff --version. For shell completion: rnn2ff --tyro-print-completion bash"""


def main() -> None:
    """Run a command, and exit with its code."""
    try:
        code = _run()
        sys.stdout.flush()
    except (ValueError, ModuleNotFoundError) as error:
        code = _complain(2, f"error: {error}")
    except RuntimeError as error:
        code = _complain(1, f"error: {error}")
    except BrokenPipeError:  # the reader of the results has closed the pipe, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # so that the last flush does not fail as well
        code = 0
    except OSError as error:
        code = _complain(1, f"error: the results could not be written: {error}")
    except KeyboardInterrupt:
        code = _complain(130, "interrupted before the results were complete")
    if code:
        sys.exit(code)


def _run() -> int:
    if sys.argv[1:] == ["--version"]:
        from rnn2ff import __version__

        sys.stdout.write(f"rnn2ff {__version__}\n")
        return 0
    # Imported here, so that an interruption is caught from the first moment on.
    import tyro

    from rnn2ff.cli.commands import Command

    return tyro.cli(Command, prog="rnn2ff", description=_DESCRIPTION, config=(tyro.conf.FlagCreatePairsOff,)).run()


def _complain(code: int, message: str) -> int:
    print(f"rnn2ff: {message}", file=sys.stderr)
    return code
