"""Export to ONNX. Oracles: onnxruntime against the model before folding, and the files there."""

from __future__ import annotations

import copy
import io
from pathlib import Path

import pytest
import torch
from torch import nn

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")  # torch's newer exporter is written in it

import onnx
import onnxruntime

from tests.test_norm_fold import bcn, settled
from ws_det import EstBatchNorm2d, InputError, WSConv2d, export
from ws_det.export import export_onnx, feature_axes, feature_examples


class Levels(nn.Module):
    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, image):
        return (self.layers(image),)


def network() -> nn.Module:
    layers = (
        WSConv2d(3, 8, 3), nn.GroupNorm(4, 8), nn.ReLU(), WSConv2d(8, 8, 3), bcn(), nn.ReLU(),
        WSConv2d(8, 8, 3, bias=False), EstBatchNorm2d(8),
    )  # fmt: skip
    return settled(Levels(*layers)).float()


def quiet(line: str) -> None:
    pass


def test_onnxruntime_gives_what_torch_gives(tmp_path: Path) -> None:
    """Another batch and another size than those traced: 1e-4 of the largest value."""
    model, path = network(), tmp_path / "new" / "model.onnx"
    before = copy.deepcopy(model)
    error = export_onnx(model, feature_examples((32, 64)), path, feature_axes(["p2"]), quiet)
    assert error <= 1e-4
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    x = torch.randn(3, 3, 40, 56)
    (got,) = session.run(["p2"], {"image": x.numpy()})
    with torch.no_grad():
        (expected,) = before(x)
    error = (torch.from_numpy(got) - expected).abs().max() / expected.abs().max()
    assert error <= 1e-4
    assert [p.name for p in path.parent.iterdir()] == ["model.onnx"]


def test_a_graph_has_no_standardization(tmp_path: Path) -> None:
    """Oracle: the operators of the graph; a plain model has the same."""
    examples, axes = feature_examples((32, 32)), feature_axes(["p2"])
    kinds = []
    for conv in (WSConv2d, nn.Conv2d):
        model = Levels(conv(3, 8, 3), nn.GroupNorm(4, 8)).eval()
        export_onnx(model, examples, tmp_path / "x.onnx", axes, quiet)
        kinds.append([node.op_type for node in onnx.load(tmp_path / "x.onnx").graph.node])
    assert kinds[0] == kinds[1] and kinds[0].count("Conv") == 1


class Drawn(nn.Module):
    """Whose trace differs from it: the number drawn while tracing is a constant."""

    def forward(self, image):
        return (image * float(torch.rand(())),)


def test_a_wrong_graph_is_refused_and_nothing_written(tmp_path: Path) -> None:
    path = tmp_path / "x.onnx"
    path.write_text("old")
    with pytest.raises(InputError, match="differs from torch's by"):
        export_onnx(Drawn(), feature_examples((32, 32)), path, feature_axes(["p2"]), quiet)
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_what_cannot_be_exported(tmp_path: Path) -> None:
    class Odd(nn.Module):
        def forward(self, image):
            return (torch.special.bessel_j0(image),)

    with pytest.raises(InputError, match="torch cannot export this model to ONNX"):
        export_onnx(
            Odd(), feature_examples((32, 32)), tmp_path / "x.onnx", feature_axes(["p2"]), quiet
        )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("shape", [(0, 32), (32, 33), (-32, 32)])
def test_sizes_that_no_framework_gives(shape) -> None:
    with pytest.raises(InputError, match="give multiples of 32"):
        feature_examples(shape)


def test_missing_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="an export needs onnx and onnxruntime: install"):
        export.require_onnx()


@pytest.mark.parametrize("dynamo", [False, True])
def test_torchs_exporters_refuse_an_unfolded_model(dynamo: bool) -> None:
    """One sentence that names the way out; the newer exporter wraps it."""
    model = nn.Sequential(WSConv2d(3, 8, 3), nn.GroupNorm(4, 8)).eval()
    with pytest.raises(Exception, match=r"call fold_ws\(model\) before the export") as refused:
        torch.onnx.export(
            model, (torch.randn(1, 3, 8, 8),), io.BytesIO(), dynamo=dynamo, verbose=False
        )
    error = refused.value
    assert isinstance(error.__cause__ if dynamo else error, InputError)
