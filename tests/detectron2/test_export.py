"""Detectron2's ways to export a model, on tiny detectors with our layers.

Oracle: the eager model, with Detectron2's own comparison of instances. In float64: BCN takes one
pass over its input and its graph two norms, which in float32 round apart as the processor has it,
and the decoding of boxes multiplies the difference. Boxes are float32 in Detectron2 all the same:
rounded from numbers that are equal to 1e-10, they differ by their last digit at most.
"""

from __future__ import annotations

import copy
import io

import pytest
import torch
from detectron2.export import TracingAdapter, scripting_with_instances
from detectron2.modeling import build_backbone, build_model
from detectron2.structures import Boxes, Instances
from detectron2.utils.testing import assert_instances_allclose, convert_scripted_instances
from torch import Tensor

from tests.detectron2.parts import TINY, yaml_config
from ws_det import fold_ws

# Detectron2 branches on tensors, which is right for the images it is traced for.
pytestmark = [
    pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning"),
    pytest.mark.usefixtures("in_float64"),
]

FIELDS = {
    "proposal_boxes": Boxes, "objectness_logits": Tensor, "pred_boxes": Boxes, "scores": Tensor,
    "pred_classes": Tensor, "pred_masks": Tensor,
}  # fmt: skip


def images(*sizes):
    return [{"image": torch.rand(3, *size, dtype=torch.float64) * 255} for size in sizes]


def assert_equal(got, expected, **options):
    """Detectron2's comparison, of what was float64 all along."""
    got, expected = map(convert, (got, expected))
    assert len(expected) > 0
    for field in ("scores", "pred_masks"):
        assert expected.get(field).dtype == got.get(field).dtype == torch.float64, field
    assert_instances_allclose(got, expected, **options)


def convert(instances):
    return instances if isinstance(instances, Instances) else convert_scripted_instances(instances)


@pytest.fixture(scope="module", params=["GN", "BCN"])
def model(request):
    """A Mask R-CNN in eval mode whose statistics have seen an image."""
    torch.manual_seed(0)
    model = build_model(
        yaml_config(request.param, TINY | {"MODEL.ROI_HEADS.SCORE_THRESH_TEST": 0.0})
    )
    with torch.no_grad():
        model.backbone(torch.randn(2, 3, 64, 64))
    return model.eval().double()


def reloaded(graph):
    file = io.BytesIO()
    torch.jit.save(graph, file)
    file.seek(0)
    return torch.jit.load(file)


@pytest.mark.parametrize("folded", [False, True])
def test_scripting(model, folded):
    """Detectron2's scripting_with_instances, and images of other sizes than any seen before."""
    model = copy.deepcopy(model)
    if folded:
        fold_ws(model)
    expected_of = copy.deepcopy(model)  # Detectron2 changes a backbone that it scripts
    graph = reloaded(scripting_with_instances(model, FIELDS))
    batch = images((64, 64), (50, 96))
    with torch.no_grad():
        expected = expected_of.inference(batch, do_postprocess=False)
        got = graph.inference(batch, do_postprocess=False)
    for ours, theirs in zip(got, expected, strict=True):
        assert_equal(ours, theirs)


@pytest.mark.parametrize("folded", [False, True])
def test_tracing(model, folded):
    """Detectron2's TracingAdapter, traced with one image, run with a larger one."""
    model = copy.deepcopy(model)
    if folded:
        fold_ws(model)

    def infer(model, image):
        return model.inference([{"image": image}], do_postprocess=False)[0]

    adapter = TracingAdapter(model, images((64, 64))[0]["image"], infer)
    with torch.no_grad():
        graph = reloaded(torch.jit.trace(adapter, images((64, 80))[0]["image"]))
        image = images((96, 128))[0]["image"]
        expected = infer(model, image)
        got = adapter.outputs_schema(graph(image))
    assert_equal(got, expected, size_as_tensor=True)


def test_the_ws_model_is_left_as_it_was(model):
    """Scripting must not fold the model that goes on to be trained: the same kinds of layer."""
    model = copy.deepcopy(model)
    kinds = sorted(type(m).__name__ for m in model.modules())
    scripting_with_instances(model, FIELDS)
    after = [type(m).__name__ for m in model.modules()]
    for kind in ("WSConv2d", "BatchChannelNorm2d", "EstBatchNorm2d", "GroupNorm"):
        assert after.count(kind) == kinds.count(kind), kind


@pytest.mark.parametrize("norm", ["GN", "BCN"])
@pytest.mark.parametrize("training", [True, False])
def test_a_scripted_resnet(norm, training):
    """In float64, as BCN takes one pass over its input and its graph two norms: 1e-10 of 1 to 10.

    Detectron2 scripts a copy of a ResNet, so that each moves statistics of its own.
    """
    cfg = yaml_config(norm, {"MODEL.BACKBONE.NAME": "build_ws_resnet_backbone"})
    resnet = build_backbone(cfg).double().train(training)
    scripted = torch.jit.script(resnet)
    for _ in range(2):
        x = torch.rand(2, 3, 96, 96, dtype=torch.float64)
        torch.testing.assert_close(scripted(x)["res4"], resnet(x)["res4"], rtol=0, atol=1e-10)
