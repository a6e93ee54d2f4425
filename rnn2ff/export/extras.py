"""Libraries that only some routes need: looked for before the work, with an error that names the extra."""

import functools
import importlib
from collections.abc import Callable
from typing import ParamSpec, TypeVar

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


def needs_extra(extra: str, *libraries: str) -> Callable[[Callable[Parameters, Result]], Callable[Parameters, Result]]:
    """Make a function call `require_extra` before it runs."""

    def decorate(function: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
        @functools.wraps(function)
        def guarded(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
            require_extra(extra, *libraries)
            return function(*args, **kwargs)

        return guarded

    return decorate


def require_extra(extra: str, *libraries: str) -> None:
    """Raise a `ModuleNotFoundError` that names the extra, if one of its libraries is missing."""
    for library in libraries:
        try:
            importlib.import_module(library)
        except ModuleNotFoundError as error:
            message = f"This needs {library}. Install the extra {extra}: pip install 'rnn2ff[{extra}]'"
            message += f", or in a checkout pip install -e '.[{extra}]'"
            raise ModuleNotFoundError(message) from error
