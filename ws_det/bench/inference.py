"""What WS costs in inference: nothing, once it is folded."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from ws_det.bench.model import ResNetFPN, quick_sizes
from ws_det.bench.rounds import Comparison, Target, check_equal
from ws_det.convert import convert_to_ws
from ws_det.fold import fold_ws

PLAIN, FOLDED, UNFOLDED = "plain convolutions", "ws_det, folded", "ws_det, not folded"


def compare_inference(
    size: tuple[int, int], quick: bool = False, device: str = "cpu"
) -> Comparison:
    """ResNet-50 with FPN and GN on one image: plain convolutions, WS folded, WS as trained.

    Args:
        size: Height and width of the image.
        quick: A narrow model instead.
        device: Where it is.

    Raises:
        RuntimeError: If the three do not compute the same; the plain model has the folded weights.
    """
    unfolded = convert_to_ws(ResNetFPN(**quick_sizes(quick))).to(device).eval()
    folded = fold_ws(copy.deepcopy(unfolded))
    plain = ResNetFPN(**quick_sizes(quick)).to(device).eval()
    plain.load_state_dict(folded.state_dict())
    image = torch.randn(1, 3, *size, device=device)
    models = {PLAIN: plain, FOLDED: folded, UNFOLDED: unfolded}
    arms = {name: _predict(model, image) for name, model in models.items()}
    for name in (PLAIN, FOLDED):
        check_equal(name, arms[name](), arms[UNFOLDED](), rtol=1e-5)  # the same kernels
    return Comparison(
        f"ResNet-50 FPN GN, one image of {size[0]} x {size[1]}, inference",
        arms,
        baseline=PLAIN,
        # The same layers: what differs from 1.00 is noise, for which this leaves room.
        targets=[Target(FOLDED, PLAIN, 1.02)],
        images=1,
    )


def _predict(model: nn.Module, image: Tensor) -> Callable[[], tuple[Tensor, ...]]:
    return torch.no_grad()(lambda: model(image))
