"""What is said of set-ups, working ones and broken ones.

Oracle: how each was broken, by a package of the same name that comes first on the path, or by a
None in sys.modules, Python's own way to make an import fail.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

import ws_det
from tests.conftest import REPO
from ws_det import collect_env, probes

# MMDetection and MMEngine import the last three themselves.
REQUIRED = {"torch", "mmengine", "numpy", "matplotlib", "pycocotools"}
ALL = set(collect_env._PACKAGES)
HIDE = """
import os, sys
sys.modules.update(dict.fromkeys(os.environ["HIDDEN"].split(",")))
"""


@pytest.fixture
def found(tmp_path: Path):
    """Run the module with nothing but ``seen``, and with what is in ``tmp_path``."""
    (tmp_path / "sitecustomize.py").write_text(HIDE)

    def run(
        seen: set[str], code: int, also: str = "", command: tuple[str, ...] = ()
    ) -> dict[str, Any]:
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join((str(tmp_path), str(REPO))),
            "HIDDEN": ",".join([*sorted(ALL - seen - {"ws_det"}), also]),
            "OMP_NUM_THREADS": "1",
        }
        done = subprocess.run(
            [sys.executable, *(command or ("-m", "ws_det.collect_env")), "--json"],
            env=environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=240,
        )
        assert done.returncode == code, done.stdout + done.stderr
        answer = json.loads(done.stdout)
        fits_a_screen(answer)
        return answer

    return run


def fits_a_screen(answer: dict[str, Any]) -> list[str]:
    lines = collect_env._screen(answer).splitlines()
    assert len(lines) <= 40 and max(map(len, lines)) <= 100
    return lines


def write(folder: Path, package: str, code: str) -> None:
    (folder / package).mkdir()
    (folder / package / "__init__.py").write_text(code)


@pytest.mark.skipif(find_spec("mmdet") is None, reason="needs MMDetection")
def test_a_working_set_up(found) -> None:
    answer = found({*REQUIRED, "mmcv", "mmdet"}, code=0)
    assert answer["works"] and answer["problems"] == []
    assert answer["frameworks"] == {"MMDetection": True, "Detectron2": False}
    assert answer["packages"]["numpy"]["version"]
    last = fits_a_screen(answer)[-1]
    assert last == "detectors can be trained with MMDetection"


def test_no_framework(found) -> None:
    answer = found({"torch"}, code=1)
    assert answer["packages"]["torch"]["status"] == answer["packages"]["ws_det"]["status"] == "ok"
    (problem,) = answer["problems"]
    assert "mmengine and mmcv and mmdet cannot be found" in problem and "pip install" in problem


@pytest.mark.skipif(find_spec("mmcv") is None, reason="needs mmcv and mmengine")
def test_mmcv_without_operators_and_mmengine_that_cannot_resume(found, tmp_path: Path) -> None:
    """The second is a copy with 0.10.7's own loader put back; it trains, so it is not broken."""
    installed = Path(find_spec("mmengine").origin).parent
    shutil.copytree(installed, tmp_path / "mmengine", ignore=shutil.ignore_patterns("__pycache__"))
    with (tmp_path / "mmengine/runner/checkpoint.py").open("a") as file:
        file.write(
            "\n@CheckpointLoader.register_scheme(prefixes='', force=True)\n"
            "def load_from_local(filename, map_location):\n"
            "    return torch.load(filename, map_location=map_location)\n"
        )
    answer = found({*REQUIRED, "mmcv"}, code=1, also="mmcv._ext")
    mmengine, mmcv = answer["problems"]
    assert mmcv.startswith("mmcv: ModuleNotFoundError: ") and "MMCV_WITH_OPS=1" in mmcv
    assert answer["packages"]["mmengine"]["status"] == "ok"
    assert "cannot resume" in mmengine and "tools/train.py" in mmengine


def test_broken_packages_do_not_take_it_down(found, tmp_path: Path) -> None:
    """Each of these breaks in its own way; torch and ws_det are probed all the same."""
    write(tmp_path, "torchvision", "raise RuntimeError('operator torchvision::nms does not exist')")
    write(tmp_path, "detectron2", "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    write(tmp_path, "mmcv", "print('{}'); import os; os._exit(3)")
    write(tmp_path, "timm", "import pkg_resources_of_old as pkg_resources")
    write(tmp_path, "onnx", "raise SystemExit")
    words = "MMCV==2.2.0 is used but incompatible. Please install mmcv>=2.0.0rc4, <2.2.0."
    write(tmp_path, "mmdet", f"assert False, {words!r}")
    broken = {"torchvision", "detectron2", "mmcv", "timm", "onnx", "mmdet"}
    answer = found({"torch", *broken}, code=1)
    said = {problem.partition(":")[0]: problem for problem in answer["problems"]}
    assert set(said) == broken
    assert {name for name, p in answer["packages"].items() if p["status"] == "ok"} == {
        "torch", "ws_det",
    }  # fmt: skip
    assert "nms does not exist" in said["torchvision"] and "torchvision==" in said["torchvision"]
    assert "signal 11" in said["detectron2"] and "--no-build-isolation" in said["detectron2"]
    assert "code 3" in said["mmcv"] and "onedl-mmcv" in said["mmcv"]
    assert "incompatible" in said["mmdet"] and "'mmcv<2.2'" in said["mmdet"]
    assert "setuptools>=80,<81" in said["timm"] and "SystemExit" in said["onnx"]


def test_without_torch(found, tmp_path: Path) -> None:
    """By its path, for ``import ws_det`` needs torch."""
    write(tmp_path, "torch", "raise OSError('libcudart.so.12: cannot open shared object file')")
    script = (str(REPO / "ws_det/collect_env.py"),)
    answer = found({"torch"}, code=1, command=script)
    assert "libcudart.so.12" in answer["packages"]["torch"]["error"]
    assert "pip install --force-reinstall torch" in answer["problems"][0]


def test_a_package_that_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "timm", "import time; time.sleep(60)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(collect_env, "_TIMEOUT", 1)
    assert collect_env._probe("timm")["error"] == "it does not import within 1 s"


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("standardize_weight", lambda weight: weight),
        ("BatchChannelNorm2d", lambda channels, num_groups: ws_det.EstBatchNorm2d(channels)),
    ],
)
def test_the_self_test_finds_wrong_layers(
    name: str, wrong: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ws_det, name, wrong)
    answer = probes.probe("ws_det")
    assert answer["status"] == "broken" and "off its definition" in answer["error"]


def test_a_screen_of_problems() -> None:
    """The longest report there can be still fits."""
    broken = {"status": "broken", "error": "ImportError: " + "long " * 200, "version": "1.0" * 40}
    packages = dict.fromkeys(collect_env._PACKAGES, broken)
    answer = {
        "python": "3", "platform": "x", "packages": packages, "works": False,
        "frameworks": {"MMDetection": False}, "problems": collect_env._problems(packages, False),
    }  # fmt: skip
    assert fits_a_screen(answer)[-1] == "no detector can be trained yet"
