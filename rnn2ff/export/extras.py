"""Libraries that only some routes need: looked for before the work, with an error that names the extra."""

import functools
import importlib
from collections.abc import Callable
from typing import ParamSpec, TypeVar

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


def needs_extra(extra: str, *libraries: str) -> Callable[[Callable[Parameters, Result]], Callable[Parameters, Result]]:
    """Make a function look for the libraries of an extra before it runs.

    Raises:
        ModuleNotFoundError: when the function is called, if a library is missing.
    """

    def decorate(function: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
        @functools.wraps(function)
        def guarded(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
            require_extra(extra, *libraries)
            return function(*args, **kwargs)

        return guarded

    return decorate


def require_extra(extra: str, *libraries: str) -> None:
    """Refuse to go on without the libraries of an extra.

    Raises:
        ModuleNotFoundError: if a library is missing.
    """
    for library in libraries:
        try:
            importlib.import_module(library)
        except ModuleNotFoundError as error:
            message = f"This needs {library}. Install the extra {extra}: pip install 'rnn2ff[{extra}]'"
            message += f", or in a checkout pip install -e '.[{extra}]'"
            raise ModuleNotFoundError(message) from error
