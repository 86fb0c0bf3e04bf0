"""What is said when MMDetection is missing or broken, in a process that cannot import it."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.conftest import REPO


@pytest.mark.parametrize(
    ("hidden", "words"),
    [
        (["mmdet", "mmcv", "mmengine"], "mmengine and mmcv and mmdet cannot be imported"),
        (["mmcv"], "error: mmcv cannot be imported"),
        (["mmcv._ext"], "mmcv is installed without working operators"),
    ],
)
def test_one_sentence(hidden: list[str], words: str) -> None:
    """A None in sys.modules is Python's own way to make an import fail."""
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({hidden}))\n"
        "from tools.train import main; from ws_det.errors import run_tool\n"
        "run_tool(lambda: main(['any_config']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 2
    assert [line for line in done.stderr.splitlines() if words in line] == done.stderr.splitlines()
    assert "install" in done.stderr
