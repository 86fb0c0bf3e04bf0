"""The exceptions for what a user got wrong, and the way a tool ends on them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class InputError(ValueError):
    """Bad input by the user. Its message is one sentence: the offending value and the way out.

    Attributes:
        given: The message before it was made a line; of a data worker, torch's traceback.
    """

    def __init__(self, message: str = "") -> None:
        self.given = message
        line = printable(message)  # what a file says of itself may be quoted, and be anything
        super().__init__(line if len(line) <= 1000 else f"{line[:700]} ... {line[-250:]}")


class FrameworkError(InputError, ImportError):
    """A detection framework is missing or does not work; its message is one sentence as well."""


def printable(text: str) -> str:
    """A text as one line that a terminal only prints, and that any file can hold."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def first_line(error: BaseException) -> str:
    """The first line of an error's message, to be quoted in a sentence; else its type."""
    text = str(error)
    if isinstance(error, KeyError) and error.args and " " in str(error.args[0]):
        text = str(error.args[0])  # a sentence; of a key alone the quotes stay
    return (text.strip().splitlines() or [type(error).__name__])[0].rstrip(".")


def warn(sentence: str) -> None:
    """Tell the user on stderr what may be wrong, as :func:`run_tool` tells what is."""
    print(f"warning: {InputError(sentence)}", file=sys.stderr)  # one line, whatever is quoted


@contextmanager
def one_sentence() -> Iterator[None]:
    """Take an ``InputError`` of a data worker out of the traceback that torch wraps it in."""
    try:
        yield
    except InputError as error:
        said = error.given.rstrip().rpartition("InputError: ")[2]
        raise InputError(said) from error.__cause__


def run_tool(main: Callable[[], object]) -> None:
    """Run a tool's ``main`` and turn an :class:`InputError` into one line on stderr and exit 2.

    Args:
        main: The tool's entry point; it reads ``sys.argv`` itself.

    Raises:
        SystemExit: With code 2 after an :class:`InputError`.
    """
    try:
        main()
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
