"""The exceptions, and how a tool ends on them. Oracle: Python's own classes and exit codes."""

from __future__ import annotations

import pytest

from ws_det.errors import FrameworkError, InputError, first_line, run_tool, warn


def test_framework_error_is_an_import_error() -> None:
    """So that ``custom_imports`` of MMEngine and ``pytest.importorskip`` understand it."""
    assert issubclass(FrameworkError, ImportError) and issubclass(FrameworkError, InputError)


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("no good.\nmore"), "no good"),
        (ImportError("one"), "one"),
        (AssertionError(), "AssertionError"),
    ],
)
def test_first_line(error: Exception, line: str) -> None:
    """Without the full stop, for it is quoted inside a sentence."""
    assert first_line(error) == line


@pytest.mark.parametrize("kind", [InputError, FrameworkError])
def test_bad_input_is_one_line_and_exit_2(
    kind: type[InputError], capsys: pytest.CaptureFixture[str]
) -> None:
    def main() -> None:
        raise kind("x is 0: give 1")

    with pytest.raises(SystemExit) as end:
        run_tool(main)
    assert end.value.code == 2 and capsys.readouterr().err == "error: x is 0: give 1\n"


def test_other_errors_are_not_hidden() -> None:
    """A fault of the code keeps its traceback."""
    with pytest.raises(ValueError, match="a bug"):
        run_tool(lambda: int("a bug"))


def test_a_sentence_stays_one_line() -> None:
    """Oracle: by hand. A name out of a file may be anything, and long."""
    assert str(InputError("no\nkey \x1b[1m")) == r"no\nkey \x1b[1m"
    cut = str(InputError("a" * 5000 + ": take another"))
    assert len(cut) < 1000 and cut.startswith("aaa") and cut.endswith("aa: take another")


def test_warnings(capsys: pytest.CaptureFixture[str]) -> None:
    warn("it may not work")
    assert capsys.readouterr().err == "warning: it may not work\n"
