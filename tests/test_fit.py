"""Which weights fit. Oracles: how the weights were made here, and the keys taken from them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import nn

from tests.test_family import FAMILIES
from tests.test_family import trained as train
from ws_det import BatchChannelNorm2d, WSConv2d, fold_ws
from ws_det.checkpoint import below, state_dict_of
from ws_det.errors import InputError
from ws_det.fit import check_backbone, check_family, check_start, check_whole

REMEDY = "take others"
GN = partial(nn.GroupNorm, 4)


class Backbone(nn.Module):
    """Four layers of a convolution and a norm."""

    def __init__(
        self, conv: type[nn.Module] = WSConv2d, norm: Callable[[int], nn.Module] = GN
    ) -> None:
        super().__init__()
        for i in range(4):
            self.add_module(f"conv{i}", conv(3 if i == 0 else 16, 16, 3))
            self.add_module(f"norm{i}", norm(16))


class Detector(nn.Module):
    """A backbone and a small head."""

    def __init__(self, classes: int = 2) -> None:
        super().__init__()
        self.backbone = Backbone()
        self.head = nn.Linear(16, classes)


def trained(module: nn.Module) -> nn.Module:
    """As if trained without WS, which takes the means of the kernels away from 0."""
    for kernel in module.parameters():
        if kernel.ndim == 4:
            kernel.data += 0.3
    return module


def test_the_same_backbone() -> None:
    """Plain, from inside DDP, below a prefix, with a classifier: oracle is that none raises."""
    backbone = Backbone()
    state = backbone.state_dict()
    inside = {f"backbone.{k}": v for k, v in state.items()} | {"backbones": 1}
    for found in (
        state,
        state_dict_of(state),
        state_dict_of({f"module.{k}": v for k, v in state.items()}),
        below(inside, "backbone."),
        {**state, "fc.weight": torch.zeros(9, 9)},
    ):
        check_backbone(backbone, found, "w.pth", REMEDY)
    assert list(below(inside, "backbone.")) == list(state)


def test_metadata_is_kept() -> None:
    """Modules read versions in it. Oracle: torch's own, of the inner module."""
    detector = Detector()
    assert below(detector.state_dict(), "backbone.")._metadata["norm0"] == {"version": 1}


def test_another_depth() -> None:
    """Half of the kernels are missing: 1 - (2 * 16*16*9 + 2 * 16) / 7536 elements are there."""
    state = Backbone().state_dict()
    for name in ("conv2", "norm2", "conv3", "norm3"):
        del state[f"{name}.weight"]
    with pytest.raises(
        InputError,
        match=r"^w\.pth has weights of another model, 38% of Backbone is in it \(4 missing, as "
        r"conv2\.weight norm2\.weight conv3\.weight, 0 unexpected, 0 of another shape\)",
    ):
        check_backbone(Backbone(), state, "w.pth", REMEDY)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: fold_ws(Backbone()), "folded from WS weights"),
        (lambda: trained(Backbone(nn.Conv2d)), "trained with GN without WS weights"),
        (lambda: Backbone(nn.Conv2d, nn.BatchNorm2d), "BN weights"),
    ],
)
def test_another_family_of_norms(make: Callable[[], nn.Module], words: str) -> None:
    """Alone and inside a detector; the caller's words end the sentence."""
    other = Detector()
    other.backbone = make()
    ours = Detector()
    for check, module, state in (
        (check_backbone, ours.backbone, other.backbone.state_dict()),
        (check_start, ours, other.state_dict()),
        (check_whole, ours, other.state_dict()),
    ):
        with pytest.raises(InputError) as refused:
            check(module, state, "w.pth", REMEDY)
        sentence = str(refused.value)
        assert sentence.startswith(f"the backbone weights in w.pth are {words}")
        assert sentence.removesuffix(", or go on with --force").endswith(": take others")


@pytest.mark.parametrize(
    ("weights", "config", "words"),
    [
        ("gn+ws", "gn", "raw kernels of WS"),
        ("bn+ws", "bn", "raw kernels of WS"),
        ("bcn+ws", "gn", "raw kernels of WS"),
        ("bn", "gn", "were trained with BN, but the config's backbone has GN"),
        ("gn", "bn", "were trained with GN, but the config's backbone has BN"),
        ("gn", "gn+ws", "are trained with GN without WS"),
        ("gn", "bcn+ws", "are trained with GN without WS"),
        ("bn", "gn+ws", "are BN weights"),
        ("bn", "bn+ws", "are trained with BN without WS"),
        ("bn+ws", "gn+ws", "are BN weights"),
        ("bn", "bcn+ws", "are BN weights"),
        ("gn+ws", "gn+ws", None),
        ("gn+ws", "bcn+ws", None),  # as the supplied BCN configs start
        ("bn+ws", "bn+ws", None),
        ("bcn+ws", "bcn+ws", None),
        ("gn", "gn", None),
        ("bn", "bn", None),
    ],
)
def test_families_both_ways(
    weights: str,
    config: str,
    words: str | None,
    networks: dict[str, nn.Module],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Oracle: how both were trained. ``force`` says the same, as a warning, and goes on."""
    backbone, state = copy.deepcopy(networks[config]), networks[weights].state_dict()
    if words is None:
        check_backbone(backbone, state, "w.pth", REMEDY)
        return
    with pytest.raises(InputError, match=words) as refused:
        check_backbone(backbone, state, "w.pth", REMEDY)
    assert str(refused.value).endswith(", or go on with --force")
    check_family(backbone, state, "w.pth", REMEDY, force=True)
    warning = str(refused.value).removesuffix(", or go on with --force")
    assert capsys.readouterr().err == f"warning: {warning}\n"


@pytest.mark.parametrize("marked", [True, False])
def test_folded_weights_fit_a_plain_backbone(marked: bool, networks: dict[str, nn.Module]) -> None:
    state = fold_ws(copy.deepcopy(networks["gn+ws"])).state_dict()
    check_backbone(networks["gn"], state if marked else dict(state), "w.pth", REMEDY)


@pytest.fixture(scope="module")
def networks() -> dict[str, nn.Module]:
    """A trained one of each family."""
    torch.manual_seed(0)
    return {name: train(*parts) for name, parts in FAMILIES.items()}


@pytest.mark.parametrize("norm", [nn.BatchNorm2d, partial(BatchChannelNorm2d, num_groups=4)])
def test_norms_with_statistics_take_their_own(norm: Callable[[int], nn.Module]) -> None:
    """WS before BN starts from BN weights, and WS before BCN from BCN weights."""
    check_backbone(Backbone(WSConv2d, norm), Backbone(WSConv2d, norm).state_dict(), "w.pth", REMEDY)


@pytest.mark.parametrize("option", [{"adaptive": True}, {"center": False}])
def test_plain_weights_into_ws_that_can_take_them(option: dict[str, bool]) -> None:
    """An adaptive kernel initializes itself from plain weights; without centring means train."""
    backbone = Backbone()
    shifted = trained(Backbone()).state_dict()
    with pytest.raises(InputError, match="without WS"):
        check_backbone(backbone, shifted, "w.pth", REMEDY)
    for module in backbone.modules():
        if isinstance(module, WSConv2d):
            for name, value in option.items():
                setattr(module, name, value)
    check_backbone(backbone, shifted, "w.pth", REMEDY)


def test_a_detector_with_other_classes() -> None:
    """The head differs, and that is what fine-tuning is; testing needs all of the model."""
    state = Detector(classes=2).state_dict()
    check_whole(Detector(classes=2), state, "c.pth", REMEDY)
    check_start(Detector(classes=9), state, "c.pth", REMEDY)
    with pytest.raises(InputError, match=r"2 of another shape, as head\.weight head\.bias"):
        check_whole(Detector(classes=9), state, "c.pth", REMEDY)


def test_another_detector() -> None:
    state = Detector().state_dict()
    state["extra"] = state.pop("head.bias")
    with pytest.raises(InputError) as refused:
        check_whole(Detector(), state, "c.pth", REMEDY)
    assert str(refused.value) == (
        "c.pth is a checkpoint of another model than the config's (1 missing, as head.bias, "
        "1 unexpected, as extra, 0 of another shape): give the config it was trained with"
    )
    with pytest.raises(InputError, match="0% of Detector"):
        check_start(Detector(), {"stem.weight": torch.zeros(3)}, "c.pth", REMEDY)


def test_fresh_statistics_counters_may_be_missing() -> None:
    """Old checkpoints do not count batches."""
    backbone = Backbone(nn.Conv2d, nn.BatchNorm2d)
    state = backbone.state_dict()
    for key in [key for key in state if key.endswith("num_batches_tracked")]:
        del state[key]
    check_whole(backbone, state, "c.pth", REMEDY)


def test_weights_of_a_run_that_diverged(capsys: pytest.CaptureFixture[str]) -> None:
    """Oracle: the one weight with a NaN in it."""
    detector = Detector()
    state = detector.state_dict()
    state["head.bias"][1] = float("nan")
    for check in (check_whole, check_start):
        with pytest.raises(
            InputError, match=r"NaN in 1 weights, as head\.bias.*earlier checkpoint"
        ):
            check(Detector(), state, "c.pth", REMEDY)
        check(Detector(), state, "c.pth", REMEDY, force=True)
        assert "warning: c.pth has NaN" in capsys.readouterr().err


@pytest.mark.parametrize(
    "value",
    [
        torch.zeros(2, 16).to_sparse(),
        torch.empty(2, 16, device="meta"),
        torch.zeros(2, 16, dtype=torch.int64),
        torch.zeros(2, 16, dtype=torch.complex64),
        "text",
    ],
)
def test_weights_of_another_kind(value: object) -> None:
    state = Detector().state_dict()
    state["head.weight"] = value
    with pytest.raises(InputError, match=r"1 of another shape, as head\.weight"):
        check_whole(Detector(), state, "c.pth", REMEDY)


def test_folded_weights_outside_of_a_backbone() -> None:
    """The layers themselves refuse them, and it is one sentence all the same."""
    model = nn.Sequential(WSConv2d(3, 4, 3), nn.GroupNorm(2, 4))
    state = fold_ws(copy.deepcopy(model)).state_dict()
    with pytest.raises(InputError, match=r"c\.pth cannot be loaded: 0\.weight is folded"):
        check_whole(model, state, "c.pth", REMEDY)
