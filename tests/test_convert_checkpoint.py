"""tools/convert_checkpoint.py as a user calls it. Oracle: the file that it writes, or does not."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.conftest import run
from tools import convert_checkpoint

RELEASE = OrderedDict(
    {
        "module.conv1.weight": torch.randn(4, 3, 7, 7),
        "module.bn1.weight": torch.randn(4),
        "module.layer1.0.conv1.weight": torch.randn(4, 4, 1, 1),
        "module.layer1.0.downsample.1.bias": torch.randn(4),
        "module.fc.weight": torch.randn(10, 4),
    }
)


@pytest.fixture
def release(tmp_path: Path) -> Path:
    """A checkpoint as the WS authors' training saved it."""
    path = tmp_path / "R.pth.tar"
    torch.save({"epoch": 90, "state_dict": RELEASE, "optimizer": {"state": {}}}, path)
    return path


def test_a_release_becomes_a_backbone_of_mmdet(release: Path, tmp_path: Path) -> None:
    target = tmp_path / "made" / "r.pth"
    done = run("convert_checkpoint", release, target, "--to", "mmdet")
    assert done.returncode == 0, done.stdout
    for line in (
        f"{release}: 5 weights, recognized as jhu",
        "left out of the checkpoint: epoch, optimizer",
        "left out, not needed in mmdet: fc.weight",
        "note: images: set data_preprocessor bgr_to_rgb=True",
        f"{target}: 4 weights, in mmdet's names",
    ):
        assert line in done.stdout
    saved = torch.load(target, weights_only=True)
    assert set(saved) == {"meta", "state_dict"}
    names = ["conv1.weight", "gn1.weight", "layer1.0.conv1.weight", "layer1.0.downsample.1.bias"]
    assert list(saved["state_dict"]) == names
    for tensor, expected in zip(saved["state_dict"].values(), RELEASE.values(), strict=False):
        assert torch.equal(tensor, expected)


@pytest.mark.parametrize(
    ("to", "at"),
    [("detectron2", "model"), ("jhu", "state_dict"), ("timm", None), ("torchvision", None)],
)
def test_every_target(to: str, at: str | None, release: Path, tmp_path: Path) -> None:
    """Oracle: where each project's loader looks for the weights."""
    first, second = tmp_path / "first.pth", tmp_path / "second.pth"
    convert_checkpoint.main([str(release), str(first), "--to", "mmdet"])
    convert_checkpoint.main([str(first), str(second), "--to", to])
    saved = torch.load(second, weights_only=True)
    state = saved[at] if at else saved
    kernels = [tensor for tensor in state.values() if tensor.ndim == 4]
    assert torch.equal(kernels[0], RELEASE["module.conv1.weight"]) and len(state) == 4


def test_a_weight_without_a_place_stops_it(
    release: Path, tmp_path: Path, refusal: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    strange = RELEASE | {"module.layer1.0.se.fc1.weight": torch.zeros(1, 1, 1, 1)}
    torch.save({"state_dict": strange}, release)
    target = tmp_path / "r.pth"
    sentence = refusal(convert_checkpoint, release, target, "--to", "mmdet")
    assert "1 weights have no place in mmdet, as layer1.0.se.fc1.weight" in sentence
    assert "--force" in sentence and not target.exists()

    convert_checkpoint.main([str(release), str(target), "--to", "mmdet", "--force"])
    assert "no place in mmdet: layer1.0.se.fc1.weight\n" in capsys.readouterr().out
    assert len(torch.load(target, weights_only=True)["state_dict"]) == 4


@pytest.mark.parametrize(
    ("target", "flags", "words"),
    [
        ("R.pth.tar", ["--to", "mmdet"], "would replace its own source"),
        ("x.pkl", ["--to", "mmdet"], "name it .pth"),
        (".", ["--to", "mmdet"], "is a folder"),
        ("x.pth", [], "give --to PROJECT"),
        ("x.pth", ["--to", "jhu"], "of the WS and BCN authors' releases already"),
        ("x.pth", ["--adopt-ws"], "add --to mmdet or --to detectron2"),
    ],
)
def test_refused(
    target: str,
    flags: list[str],
    words: str,
    release: Path,
    tmp_path: Path,
    refusal: Callable[..., str],
) -> None:
    before = release.read_bytes()
    assert words in refusal(convert_checkpoint, release, tmp_path / target, *flags)
    assert release.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["R.pth.tar"]


def test_missing_and_unknown_files(tmp_path: Path, refusal: Callable[..., str]) -> None:
    missing, unknown = tmp_path / "none.pth", tmp_path / "unknown.pth"
    torch.save({"weight": torch.zeros(1)}, unknown)
    target = tmp_path / "x.pth"
    assert "no checkpoint at" in refusal(convert_checkpoint, missing, target, "--to", "mmdet")
    assert "no known format" in refusal(convert_checkpoint, unknown, target, "--to", "mmdet")
    assert not target.exists()


def test_adopting_ws(tmp_path: Path) -> None:
    """Oracle: the mean and the deviation of a kernel, beside it."""
    kernel = torch.randn(4, 8, 3, 3) + 2
    state = {"layer1.0.conv2.weight": kernel, "layer1.0.bn2.weight": torch.ones(4)}
    state["layer1.0.bn2.running_mean"] = torch.zeros(4)
    source, target = tmp_path / "bn.pth", tmp_path / "ws.pth"
    torch.save(state, source)
    convert_checkpoint.main([str(source), str(target), "--to", "detectron2", "--adopt-ws"])
    adopted = torch.load(target, weights_only=True)["model"]
    means = adopted["res2.0.conv2.weight_beta"].flatten()
    assert torch.allclose(means, kernel.flatten(1).mean(1), atol=1e-5)  # float32 sums of 72
    convert_checkpoint.main([str(source), str(target), "--adopt-ws"])
    assert "layer1.0.conv2.weight_gamma" in torch.load(target, weights_only=True)["state_dict"]


def test_npz_of_bit(tmp_path: Path) -> None:
    np = pytest.importorskip("numpy")
    kernel = np.zeros((7, 7, 3, 8), np.float32)
    np.savez(tmp_path / "b.npz", **{"resnet/root_block/standardized_conv2d/kernel": kernel})
    convert_checkpoint.main([str(tmp_path / "b.npz"), str(tmp_path / "t.pth"), "--to", "timm"])
    saved = torch.load(tmp_path / "t.pth", weights_only=True)
    assert saved["stem.conv.weight"].shape == (8, 3, 7, 7)
