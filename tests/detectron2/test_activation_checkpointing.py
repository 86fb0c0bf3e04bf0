"""A ResNet whose blocks are computed again in backward, with WS and BCN, in Detectron2.

Detectron2's ResNet has no switch for it: torch's own ``checkpoint_wrapper`` goes around its blocks.
Oracle: the same Mask R-CNN without it, in float64.
"""

from __future__ import annotations

from functools import partial

import pytest
import torch
from detectron2.layers import CNNBlockBase
from detectron2.modeling import build_model
from detectron2.modeling.backbone.resnet import BasicStem
from detectron2.utils.events import EventStorage
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import (
    CheckpointImpl,
    apply_activation_checkpointing,
    checkpoint_wrapper,
)

from tests.detectron2.parts import TINY, yaml_config
from tests.detectron2.test_accumulation import TWO, double, image
from ws_det import BatchChannelNorm2d
from ws_det.bench.counts import saved_bytes
from ws_det.estimates import StepEstimates

pytestmark = pytest.mark.usefixtures("in_float64")
NORMS = ["GN", "EstBN", "BCN", "BCN with batch statistics"]
WRAPPER = "_checkpoint_wrapped_module."
IMAGES = [
    {"image": one["image"].double(), "instances": double(one["instances"])}
    for one in (image(1, TWO), image(2, TWO[:1]))
]


def build(norm, wrap=None):
    torch.manual_seed(0)
    options = TINY | {"INPUT.MASK_FORMAT": "bitmask"}
    model = build_model(yaml_config(norm.split()[0], options)).train()
    if norm.endswith("statistics"):
        for parent in list(model.modules()):
            for name, child in parent.named_children():
                if isinstance(child, BatchChannelNorm2d):
                    large_batch = BatchChannelNorm2d(child.num_channels, child.num_groups)
                    setattr(parent, name, large_batch)
    if wrap is not None:
        apply_activation_checkpointing(
            model.backbone.bottom_up,
            checkpoint_wrapper_fn=partial(checkpoint_wrapper, checkpoint_impl=wrap),
            check_fn=lambda m: isinstance(m, CNNBlockBase) and not isinstance(m, BasicStem),
        )
    return model.double()


def step(model):
    """Losses, gradients and statistics of a step of two passes, as our hook moves them."""
    steps = StepEstimates(model)
    losses = []
    for i, part in enumerate(IMAGES):
        torch.manual_seed(i)  # of the samplers
        steps.begin_pass()
        with EventStorage():
            losses.append(model([part]))
        sum(losses[-1].values()).backward()
        steps.end_pass(last=i == 1)
    gradients = {name: p.grad for name, p in model.named_parameters()}
    return losses, gradients, {n: b.clone() for n, b in model.named_buffers() if "running" in n}


@pytest.mark.parametrize("implementation", CheckpointImpl)
@pytest.mark.parametrize("norm", NORMS)
def test_a_whole_mask_rcnn(norm, implementation):
    losses, gradients, statistics = step(build(norm))
    found = step(build(norm, implementation))
    for got, expected in zip(found[0], losses, strict=True):
        for name, value in expected.items():
            # Of the masks, torch computes the cross-entropy in float32, but not its gradient.
            tolerance = 1e-12 if value.dtype == torch.float64 else 1e-6
            assert got[name].item() == pytest.approx(value.item(), rel=tolerance), name
    largest = max(float(value.abs().max()) for value in gradients.values())
    for got, expected in ((found[1], gradients), (found[2], statistics)):
        got = {name.replace(WRAPPER, ""): value for name, value in got.items()}
        assert got.keys() == expected.keys()
        for name, value in expected.items():
            assert value.dtype == torch.float64
            scale = largest if expected is gradients else float(value.abs().max())
            assert float((got[name] - value).abs().max()) <= 1e-12 * scale, name
    assert bool(statistics) == (norm != "GN") and all(value.any() for value in statistics.values())


def kept(norm, wrap=None):
    backbone, x = build(norm, wrap).backbone, IMAGES[0]["image"][None]
    return saved_bytes(partial(backbone, x), backbone.state_dict().values())


@pytest.mark.parametrize("norm", NORMS)
def test_what_it_saves(norm):
    """Of the bytes that a forward pass of backbone and neck keeps for backward."""
    all_of_them, some = kept(norm), kept(norm, CheckpointImpl.NO_REENTRANT)
    print(f"{norm}: {all_of_them} bytes kept for backward, {some} with its blocks in segments")
    assert some < 0.6 * all_of_them
