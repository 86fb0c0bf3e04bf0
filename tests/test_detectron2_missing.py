"""What is said where Detectron2 cannot be imported; runs with and without it.

Oracle: the sentence, and that a None in sys.modules is Python's own way to make an import fail.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

REPO = Path(__file__).resolve().parents[1]


def test_one_sentence() -> None:
    code = (
        "import sys; sys.modules['detectron2'] = None\n"
        "from ws_det.errors import run_tool\n"
        "run_tool(lambda: __import__('ws_det.detectron2'))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 2
    assert done.stderr == (
        "error: detectron2 cannot be imported, which ws_det.detectron2 needs: install it with "
        "`pip install --no-build-isolation "
        "'git+https://github.com/facebookresearch/detectron2'` beside torch and torchvision, or "
        "see Installation in README.md\n"
    )
