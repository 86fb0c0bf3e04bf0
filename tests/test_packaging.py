"""The built wheel alone serves a user, and so does an editable install.

Oracle: the tree of the checkout, and a fresh interpreter elsewhere that sees the install alone.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest

REPO = Path(__file__).resolve().parents[1]
NAME = "mask-rcnn_r50_fpn_gn-ws-all_2x_coco"


def run(*command: str, cwd: Path, **env: str) -> str:
    done = subprocess.run(
        [sys.executable, *command],
        cwd=cwd,
        env={**os.environ, **env},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def pip_install(wheel: Path, site: Path) -> None:
    options = ("--quiet", "--no-deps", "--no-index", "--target", str(site))
    run("-m", "pip", "install", *options, str(wheel), cwd=site.parent)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy, for building leaves files behind."""
    copy = tmp_path_factory.mktemp("checkout")
    for name in ("ws_det", "tools", "configs"):
        shutil.copytree(REPO / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPO / name, copy)
    return copy


@pytest.fixture(scope="module")
def wheel(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    options = ("--quiet", "--no-deps", "--no-index", "--no-build-isolation", "-w", str(out))
    run("-m", "pip", "wheel", *options, ".", cwd=checkout)
    return next(out.glob("ws_det-*.whl"))


@pytest.fixture(scope="module")
def site(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    site = tmp_path_factory.mktemp("wheel_user") / "site"
    pip_install(wheel, site)
    return site


def test_wheel_leaves_no_file_out(wheel: Path) -> None:
    with ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if name.startswith("ws_det/")}
    tree = {
        f"ws_det/{p.relative_to(REPO)}"
        for end in ("py", "yaml")
        for p in REPO.glob(f"configs/**/*.{end}")
    }
    tree |= {f"ws_det/{p.relative_to(REPO)}" for p in REPO.glob("tools/*.py")}
    tree |= {str(p.relative_to(REPO)) for p in REPO.glob("ws_det/**/*.py")}
    tree |= {str(p.relative_to(REPO)) for p in REPO.glob("ws_det/evaluation/page/*")}
    assert packed == tree | {"ws_det/py.typed"}


def test_wheel_finds_its_configs(site: Path, tmp_path: Path) -> None:
    pytest.importorskip("mmdet")  # the configs inherit from its own
    code = f"""
from mmengine.config import Config
import ws_det
path = ws_det.config_path({NAME!r})
print(ws_det.__file__, path, Config.fromfile(path).model.roi_head.mask_head.conv_cfg.type)
"""
    module, path, kind = run("-c", code, cwd=tmp_path, PYTHONPATH=str(site)).split()[-3:]
    assert Path(module) == site / "ws_det/__init__.py"
    assert Path(path) == site / f"ws_det/configs/mmdet/{NAME}.py"
    assert kind == "WSConv2d"


def test_wheel_has_the_tools(site: Path, tmp_path: Path) -> None:
    shown = run("-m", "ws_det.tools.train", "--help", cwd=tmp_path, PYTHONPATH=str(site))
    assert "--work-dir" in shown


def test_editable_install_has_configs_and_tools(checkout: Path, tmp_path: Path) -> None:
    build = "from setuptools.build_meta import build_editable; build_editable({!r})"
    run("-c", build.format(str(tmp_path)), cwd=checkout)
    site = tmp_path / "site"
    pip_install(next(tmp_path.glob("*.whl")), site)
    # -S: without the .pth files of this environment, which may have an editable install itself.
    packages = [path for path in sys.path if path.endswith("-packages")]
    code = f"""
import site, sys
site.addsitedir({str(site)!r})  # reads the .pth files, as a virtual environment does
sys.path += {packages!r}
import ws_det, ws_det.tools.train
print(ws_det.tools.train.__file__, ws_det.config_path({NAME!r}))
"""
    tool, config = run("-S", "-c", code, cwd=tmp_path).split()
    assert Path(tool) == checkout / "tools/train.py"
    assert Path(config) == checkout / f"configs/mmdet/{NAME}.py"
