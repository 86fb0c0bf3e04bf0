"""Conversion on real module structures: what changes, what stays, and that it is seen before."""

import copy
from collections import OrderedDict
from functools import partial

import pytest
import torch
from torch import nn

from ws_det import BatchChannelNorm2d, EstBatchNorm2d, WSConv2d, convert_to_ws, plan_conversion
from ws_det.layers import WSConvTranspose2d

FLOAT32 = dict(rtol=1e-4, atol=1e-4)  # some layers deep, two orders of summation


class Block(nn.Module):
    """A residual block in torchvision's and MMDetection's order of children."""

    def __init__(self, channels):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, padding_mode="reflect")
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU()
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, groups=2, bias=False)
        self.bn2 = nn.GroupNorm(4, channels)
        self.shortcut = nn.Sequential(nn.Conv2d(channels, channels, 1), nn.BatchNorm2d(channels))

    def forward(self, x):
        y = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        return self.relu(y + self.shortcut(x))


def network():
    """Every case of the plan in one model."""
    return nn.Sequential(
        OrderedDict(
            stem=nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU()),
            block=Block(8),
            depthwise=nn.Sequential(nn.Conv2d(8, 8, 1, groups=8), nn.BatchNorm2d(8)),
            up=nn.Sequential(nn.ConvTranspose2d(8, 8, 2, stride=2), nn.BatchNorm2d(8)),
            pool=nn.Sequential(nn.Conv2d(8, 4, 1), nn.ReLU(), nn.BatchNorm2d(4)),
            other=nn.Sequential(nn.Conv2d(4, 8, 1), nn.BatchNorm2d(8)),
            ws=nn.Sequential(WSConv2d(8, 8, 3), nn.BatchNorm2d(8)),
            predictor=nn.Conv2d(8, 2, 1),
        )
    )


EXPECTED = {  # written by reading network() above
    "stem.0": ("convert", "BatchNorm2d follows it"),
    "block.conv1": ("convert", "BatchNorm2d follows it"),
    "block.conv2": ("convert", "GroupNorm follows it"),
    "block.shortcut.0": ("convert", "BatchNorm2d follows it"),
    "depthwise.0": ("skip", "fan-in 1, kernel (8, 1, 1, 1)"),
    "up.0": ("convert", "BatchNorm2d follows it"),
    "pool.0": ("skip", "no norm follows it"),
    "other.0": ("convert", "BatchNorm2d follows it"),
    "ws.0": ("skip", "is a WS convolution"),
    "predictor": ("skip", "no norm follows it"),
}


def test_plan_names_every_convolution_and_changes_nothing():
    """Oracle: the table above, read off the model by hand."""
    model = network()
    before = copy.deepcopy(model)
    plan = plan_conversion(model)
    assert {c.name: (c.action, c.reason) for c in plan} == EXPECTED
    assert str(plan[0]) == "convert  stem.0 (Conv2d): BatchNorm2d follows it"
    assert [type(m) for m in model.modules()] == [type(m) for m in before.modules()]


def test_convert_does_what_the_plan_says():
    """Oracle: the plan, and the outputs of a model built of WS layers by hand."""
    model = network()
    assert convert_to_ws(model) is model
    for name, (action, _) in EXPECTED.items():
        conv = model.get_submodule(name)
        assert hasattr(conv, "standardized_weight") == (action == "convert" or name == "ws.0")
    assert isinstance(model.up[0], WSConvTranspose2d)
    by_hand = nn.Sequential(WSConv2d(3, 8, 3), copy.deepcopy(model.stem[1]))
    by_hand[0].load_state_dict(model.stem[0].state_dict())
    x = torch.randn(2, 3, 9, 9)
    torch.testing.assert_close(model.stem[:2](x), by_hand(x), **FLOAT32)
    assert not any(c.action == "convert" for c in plan_conversion(model))


def test_parameters_hooks_and_state_are_kept():
    """Oracle: identity of the objects before and after."""
    model = network().double().eval()
    conv = model.block.conv1
    conv.weight.requires_grad_(False)
    seen = []
    conv.register_forward_hook(lambda *_: seen.append(1))
    parameters, keys = dict(model.named_parameters()), list(model.state_dict())
    convert_to_ws(model)
    assert list(model.state_dict()) == keys
    assert all(parameters[name] is p for name, p in model.named_parameters())
    conv = model.block.conv1
    assert type(conv) is WSConv2d and not conv.training and not conv.weight.requires_grad
    assert conv.padding_mode == "reflect" and conv.weight.dtype == torch.float64
    model(torch.randn(1, 3, 9, 9).double())
    assert seen == [1]


def test_filter_fn_gets_module_and_name():
    """Oracle: the filter's own answers."""
    model = network()
    asked = []

    def only_stem(module, name):
        asked.append((name, type(module)))
        return name.startswith("stem")

    convert_to_ws(model, only_stem)
    assert type(model.stem[0]) is WSConv2d and type(model.block.conv1) is nn.Conv2d
    assert ("up.0", nn.ConvTranspose2d) in asked and ("predictor", nn.Conv2d) not in asked


def test_shared_convolution_stays_shared():
    """Oracle: identity; heads use one convolution on all levels."""
    tower = nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4))
    model = convert_to_ws(nn.ModuleList([tower, tower, nn.Sequential(tower[0], tower[1])]))
    assert type(model[0][0]) is WSConv2d
    assert model[2][0] is model[0][0] is model[1][0]


def test_adaptive_conversion_keeps_the_function():
    """Oracle: the model before conversion."""
    model = network().eval()
    x = torch.randn(2, 3, 9, 9)
    before = model(x)
    convert_to_ws(model, adaptive=True)
    torch.testing.assert_close(model(x), before, **FLOAT32)


@pytest.mark.parametrize(
    "norm",
    [
        partial(nn.GroupNorm, 4),
        partial(BatchChannelNorm2d, num_groups=4),
        partial(BatchChannelNorm2d, num_groups=4, estimate=True),
        EstBatchNorm2d,
    ],
)
def test_norms_are_swapped_and_their_parameters_reused(norm):
    """Oracle: identity of parameters and, where the new norm has such, of statistics."""
    model = network()
    old = model.stem[1].requires_grad_(False).eval()
    seen = []
    old.register_forward_hook(lambda *_: seen.append(1))
    convert_to_ws(model, norm=norm)
    new = model.stem[1]
    assert not any(
        isinstance(m, nn.BatchNorm2d)
        for name, m in model.named_modules()
        if not name.endswith(".bn")
    )
    heir = new.bn if isinstance(new, BatchChannelNorm2d) else new
    assert heir.weight is old.weight and heir.bias is old.bias
    if hasattr(heir, "running_mean"):
        assert heir.running_mean is old.running_mean
    assert not new.training and not any(p.requires_grad for p in new.parameters())
    model(torch.randn(1, 3, 9, 9)).sum().backward()
    assert seen == [1]


def test_a_norm_under_two_names_is_swapped_in_both():
    """Oracle: no batch norm is left."""
    norm = nn.BatchNorm2d(4)
    model = nn.ModuleDict({"a": norm, "b": norm, "c": nn.Sequential(norm)})
    convert_to_ws(model, norm=partial(nn.GroupNorm, 2))
    assert model["a"] is model["b"] is model["c"][0] and isinstance(model["a"], nn.GroupNorm)


def test_inner_norm_of_bcn_is_left_alone():
    """Oracle: BCN is one norm."""
    model = nn.Sequential(nn.Conv2d(4, 8, 3), BatchChannelNorm2d(8, 4))
    convert_to_ws(model, norm=partial(nn.GroupNorm, 4))
    assert type(model[0]) is WSConv2d and isinstance(model[1].bn, nn.BatchNorm2d)


@pytest.mark.parametrize(
    "options, error, message",
    [
        (dict(norm=partial(nn.GroupNorm, 3)), ValueError, "stem.1"),
        (dict(norm=partial(BatchChannelNorm2d, num_groups=5)), ValueError, "num_groups=5"),
        (dict(formula="gn"), ValueError, "'gn'"),
        (dict(epsilon=1e-3), TypeError, "epsilon"),
    ],
)
def test_bad_options_change_nothing(options, error, message):
    """Oracle: the classes before the call."""
    model = network()
    classes = [type(m) for m in model.modules()]
    with pytest.raises(error, match=message):
        convert_to_ws(model, **options)
    assert [type(m) for m in model.modules()] == classes


@pytest.mark.parametrize(
    "module, message",
    [
        (nn.Conv2d(3, 4, 3), r"Conv2d has no .* \(Conv2d: no norm follows it\)"),
        (nn.Linear(3, 4), r"Linear has no .* \(it has none\)"),
        (
            nn.Sequential(*[nn.Conv2d(4, 4, 3) for _ in range(5)]),
            r"Sequential .* \(0: no norm follows it; 1: .*; 2: no norm follows it; and 2 more\)",
        ),
    ],
)
def test_nothing_to_convert_is_an_error(module, message):
    """Oracle: ValueError with the class and the first reasons, as fold_ws has it."""
    with pytest.raises(ValueError, match=f"nothing to convert: {message}"):
        convert_to_ws(module)


def test_what_is_converted_already_is_no_error():
    """Oracle: the classes after the first call; a filter that refuses all is the reason given."""
    model = network()
    classes = [type(m) for m in convert_to_ws(model).modules()]
    assert [type(m) for m in convert_to_ws(model).modules()] == classes
    with pytest.raises(ValueError, match="filter_fn said no"):
        convert_to_ws(Block(8), lambda *_: False)


def test_a_lone_batch_norm_is_swapped():
    """Oracle: it has its whole place to itself."""
    new = convert_to_ws(nn.BatchNorm2d(4), norm=partial(nn.GroupNorm, 2))
    assert isinstance(new, nn.GroupNorm)


def test_norm_of_other_width_does_not_count():
    """Oracle: a norm that takes another number of channels cannot follow."""
    model = nn.ModuleList([nn.Conv2d(3, 8, 3), nn.BatchNorm2d(4)])
    (change,) = plan_conversion(model)
    assert (change.action, change.reason) == ("skip", "no norm follows it")
