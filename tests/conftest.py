"""Fixtures shared by all tests."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from ws_det.errors import run_tool

# The test models are so small that a second thread costs more than it brings.
torch.set_num_threads(1)

# What a training imports when it has begun: slow, and where it can be the same for many starts.
SLOW = ("torch._dynamo", "torch.utils.tensorboard", "matplotlib.pyplot")
KILLS = int(os.environ.get("WS_DET_KILLS", 3))
REPO = Path(__file__).resolve().parents[1]
# Not contiguous, so that an id taken for a label shows.
CATEGORIES = [{"id": 3, "name": "box"}, {"id": 7, "name": "bar"}]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the sweeps unless -m names them; -m in addopts would not outlive -m 'not slow'."""
    if "sweep" not in config.option.markexpr:
        left_out = [item for item in items if item.get_closest_marker("sweep")]
        items[:] = [item for item in items if not item.get_closest_marker("sweep")]
        config.hook.pytest_deselected(items=left_out)


@pytest.fixture(autouse=True)
def seed() -> None:
    """Every test starts from the same random numbers, alone or in the whole suite."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def tiny_coco() -> Path:
    """Root of a few real COCO images: $WS_DET_TINY_COCO, or a folder beside the checkout."""
    default = REPO.parent / "shared" / "data" / "tiny_coco"
    root = Path(os.environ.get("WS_DET_TINY_COCO") or default)
    if not (root / "annotations").is_dir():
        pytest.skip(f"no COCO images at {root}: set WS_DET_TINY_COCO to a folder that has them")
    return root


def write_set(root: Path, train: int = 6, val: int = 4, empty: Sequence[int] = ()) -> Path:
    """Write a COCO-format set of noise with two rectangles an image, none in ``empty`` ones."""
    np = pytest.importorskip("numpy", reason="the images are drawn with numpy")
    Image = pytest.importorskip("PIL.Image", reason="the images are written with Pillow")
    rng = np.random.default_rng(0)
    for part, count in (("train", train), ("val", val)):
        (root / f"{part}2017").mkdir(parents=True)
        (root / "annotations").mkdir(exist_ok=True)
        images, annotations = [], []
        for i in range(count):
            pixels = rng.integers(0, 256, (64, 96, 3), dtype=np.uint8)
            images.append({"id": i + 1, "file_name": f"{i}.jpg", "width": 96, "height": 64})
            for category in CATEGORIES if i not in empty else ():
                x, y = (int(v) for v in rng.integers(0, 20, 2))
                w, h = (60, 12) if category["name"] == "bar" else (30, 30)
                pixels[y : y + h, x : x + w] //= 4
                corners = [x, y, x + w, y, x + w, y + h, x, y + h]
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": i + 1,
                        "iscrowd": 0,
                        "area": w * h,
                        "category_id": category["id"],
                        "bbox": [x, y, w, h],
                        "segmentation": [corners],
                    }
                )
            Image.fromarray(pixels).save(root / f"{part}2017" / f"{i}.jpg")
        content = {"images": images, "annotations": annotations, "categories": CATEGORIES}
        (root / "annotations" / f"instances_{part}2017.json").write_text(json.dumps(content))
    return root


@pytest.fixture(scope="session")
def coco_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set that no test changes."""
    return write_set(tmp_path_factory.mktemp("data") / "set")


def run(
    tool: str, *args: object, processes: int = 0, timeout: int = 240
) -> subprocess.CompletedProcess:
    """Run a tool as a user does, under torchrun with ``processes``; stdout has stderr in it."""
    command = [sys.executable]
    if processes:
        command += ["-m", "torch.distributed.run", f"--nproc_per_node={processes}", "--standalone"]
    environment = os.environ | {"PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*command, str(REPO / "tools" / f"{tool}.py"), *(str(arg) for arg in args)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout,
    )


def kill(job: dict[str, Any]) -> dict[str, Any]:
    """Kill a training ``WS_DET_KILLS`` times, see ``tests/killed.py``, and return its last start.

    Each start has to resume the newest checkpoint that there was.
    """
    job = {"kills": KILLS, "seed": int(os.environ.get("WS_DET_SEED", 0)), **job}
    done = subprocess.run(
        [sys.executable, "-m", "tests.killed", json.dumps(job)],
        env=os.environ | {"PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        text=True,
        timeout=180 + 60 * KILLS,
    )
    assert done.returncode == 0
    # an import may print too
    lines = [line for line in done.stdout.splitlines() if line.startswith('{"codes"')]
    *kills, end = map(json.loads, lines)
    print(*kills, sep="\n")
    assert len(kills) == KILLS
    for killed in kills:
        assert set(killed["codes"]) == {-9}, "a run ended before it was killed"
    for start in (*kills, end):
        # None: killed before it came so far, or there was no checkpoint yet
        assert start["resumed"] in (None, start["last"])
    return end


@pytest.fixture
def refusal(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run a tool that must refuse: exit code 2 and one sentence after warnings."""

    def refuse(tool: ModuleType, *args: object, warnings: int = 0) -> str:
        with pytest.raises(SystemExit) as end:
            run_tool(lambda: tool.main([str(arg) for arg in args]))
        assert end.value.code == 2
        *before, last = capsys.readouterr().err.splitlines()
        assert last.startswith("error: "), last
        assert [line.startswith("warning: ") for line in before] == [True] * warnings, before
        return last

    return refuse
