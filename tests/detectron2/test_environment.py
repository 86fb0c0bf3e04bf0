"""What is said when Detectron2 is broken, in a process that cannot import a part of it.

Oracle: one sentence on stderr, exit code 2. A None in sys.modules makes an import fail.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.conftest import REPO


@pytest.mark.parametrize(
    ("hidden", "words"),
    [
        ("torchvision.ops", "error: torchvision cannot be imported (import of torchvision.ops "),
        ("detectron2._C", "error: detectron2 is installed without working operators (import of "),
        ("detectron2.structures", "error: detectron2 cannot be imported (import of detectron2.st"),
    ],
)
def test_one_sentence(hidden: str, words: str) -> None:
    code = (
        f"import sys; sys.modules[{hidden!r}] = None\n"
        "from ws_det.errors import run_tool\n"
        "run_tool(lambda: __import__('ws_det.detectron2'))"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        cwd=REPO, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.startswith(words) and done.stderr.count("\n") == 1
    assert "install" in done.stderr or "build it again" in done.stderr
