"""Every tool, by glob: its help, and that one tiny run of it stands somewhere in the tests."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[1]
TOOLS = sorted(REPO.glob("tools/[!_]*.py"))


def run(tool: Path, *flags: str) -> subprocess.CompletedProcess:
    env = {**os.environ, "PYTHONPATH": str(REPO)}
    command = [sys.executable, str(tool), *flags]
    return subprocess.run(command, env=env, capture_output=True, text=True)


@pytest.mark.parametrize("tool", TOOLS, ids=lambda tool: tool.stem)
def test_help(tool: Path) -> None:
    shown = run(tool, "--help")
    assert shown.returncode == 0, shown.stderr
    assert f"usage: {tool.name}" in shown.stdout and f"tools/{tool.name}" in shown.stdout


@pytest.mark.parametrize("tool", TOOLS, ids=lambda tool: tool.stem)
def test_unknown_flag_exits_with_2(tool: Path) -> None:
    refused = run(tool, "--no-such-flag")
    assert refused.returncode == 2 and "usage:" in refused.stderr and not refused.stdout


@pytest.mark.parametrize("tool", TOOLS, ids=lambda tool: tool.stem)
def test_a_tiny_run_stands_in_the_tests(tool: Path) -> None:
    # a path to the file, its module, or its name beside "tools" in an import
    use = re.compile(
        rf"tools/{tool.stem}\.py|tools\.{tool.stem}\b|from tools import .*\b{tool.stem}\b"
    )
    users = [p for p in REPO.glob("tests/**/test_*.py") if use.search(p.read_text())]
    assert [p for p in users if p.name not in ("test_tools.py", "test_packaging.py")]
