"""Detectron2's own tests, run with our layers put into Detectron2 (see put_in.py).

Oracle: those tests. They come from a checkout of the Detectron2 that is installed, whose folder is
in WS_DET_DETECTRON2; `make test-detectron2 DETECTRON2=FOLDER` sets it. docs/testing.md has results.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPO

# What has convolutions with a norm in it, is exported or counted, or reads configs.
FILES = (
    "tests/layers/test_blocks.py",
    "tests/modeling/test_backbone.py",
    "tests/modeling/test_fast_rcnn.py",
    "tests/modeling/test_model_e2e.py",
    "tests/modeling/test_roi_heads.py",
    "tests/modeling/test_rpn.py",
    "tests/config/test_instantiate_config.py",
    "tests/config/test_lazy_config.py",
    "tests/config/test_yacs_config.py",
    "tests/test_checkpoint.py",
    "tests/test_export_torchscript.py",
    "tests/test_model_analysis.py",
    "tests/test_solver.py",
)


@pytest.fixture
def checkout() -> Path:
    """Detectron2's checkout."""
    folder = os.environ.get("WS_DET_DETECTRON2")
    if not folder:
        pytest.skip("WS_DET_DETECTRON2 is not set to the folder of a Detectron2 checkout")
    missing = [file for file in FILES if not (Path(folder) / file).is_file()]
    if missing:
        pytest.skip(f"WS_DET_DETECTRON2={folder} is no Detectron2 checkout: no {missing[0]} there")
    return Path(folder).absolute()


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["", "gn", "bcn"], ids=["nothing", "gn", "bcn"])
def test_detectron2_passes_its_tests(checkout: Path, tmp_path: Path, norm: str) -> None:
    """Outside the checkout, so that the installed package with its operators is imported."""
    path = os.pathsep.join([str(REPO), str(REPO / "tests" / "detectron2")])
    done = subprocess.run(
        [
            sys.executable, "-W", "ignore", "-m", "pytest", "-q", "-W", "ignore",
            "-p", "put_in", "-p", "no:cacheprovider", "--import-mode=importlib",
            f"--rootdir={checkout}", *(str(checkout / file) for file in FILES),
        ],
        cwd=tmp_path, env=os.environ | {"PYTHONPATH": path, "WS_DET_PUT_IN": norm},
        capture_output=True, text=True,
    )  # fmt: skip
    print(done.stdout)
    assert done.returncode == 0, done.stdout[-5000:]
    tested = re.findall(r"^(tests/\S+): \d+ passed", done.stdout, flags=re.MULTILINE)
    assert sorted(tested) == sorted(FILES)
    put_in = done.stdout.partition("put in: ")[2]
    assert ("WS convolutions" in put_in and norm.upper() in put_in) if norm else "nothing" in put_in


def test_the_documentation_names_every_file() -> None:
    text = (REPO / "docs" / "testing.md").read_text()
    assert [file for file in FILES if f"`{file}`" not in text] == []
