"""One standardization a step. Oracles: counted native kernels, and the unshared convolution."""

from __future__ import annotations

import copy
import gc
import pickle
from collections import Counter

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from ws_det import WSConv2d, sharing, standardize_weight

pytestmark = pytest.mark.skipif(
    sharing._saving_hooks is None, reason="this torch does not say whether tensors are intercepted"
)


class Count(TorchDispatchMode):
    """Counts native kernels by name."""

    def __init__(self):
        super().__init__()
        self.calls = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.calls[function.overloadpacket.__name__] += 1
        return function(*args, **(kwargs or {}))


def levels(count=3):
    return [torch.randn(1, 4, 8 >> i, 8 >> i) for i in range(count)]


def unshared(conv, x):
    return F.conv2d(x, standardize_weight(conv.weight), conv.bias)


def total(outputs):
    return sum(out.square().sum() for out in outputs)


def test_one_standardization_for_all_levels_forward_and_backward():
    conv, data = WSConv2d(4, 6, 1), levels()
    with Count() as count:
        for step in range(2):
            total(conv(x) for x in data).backward()
            assert count.calls["native_layer_norm"] == step + 1
            assert count.calls["native_layer_norm_backward"] == step + 1
    grad, conv.weight.grad = conv.weight.grad / 2, None
    total(unshared(conv, x) for x in data).backward()
    # float32, the levels added in another order
    torch.testing.assert_close(grad, conv.weight.grad, rtol=1e-5, atol=1e-5)


def test_nothing_is_held_between_steps():
    conv = WSConv2d(4, 6, 1)
    total([conv(levels()[0])]).backward()
    assert conv not in sharing._kept
    out = conv(levels()[0])
    assert sharing._kept[conv][0]() is not None
    del out
    gc.collect()
    assert sharing._kept[conv][0]() is None


def changed_by_optimizer(conv):
    torch.optim.SGD(conv.parameters(), lr=1).step()
    return conv


def changed_in_place(conv):
    with torch.no_grad():
        conv.weight.normal_()
    return conv


def changed_by_state_dict(conv):
    conv.load_state_dict(WSConv2d(4, 6, 1).state_dict())
    return conv


def changed_data(conv):
    conv.weight.data = torch.randn(6, 4, 1, 1)
    return conv


def changed_type(conv):
    return conv.double()


def changed_parameter(conv):
    conv.weight = nn.Parameter(torch.randn(6, 4, 1, 1))
    return conv


def copied(conv):
    return changed_in_place(copy.deepcopy(conv))


def pickled(conv):
    return changed_in_place(pickle.loads(pickle.dumps(conv)))


@pytest.mark.parametrize(
    "change",
    [
        changed_by_optimizer,
        changed_in_place,
        changed_by_state_dict,
        changed_data,
        changed_type,
        changed_parameter,
        copied,
        pickled,
    ],
)
def test_a_changed_weight_is_standardized_anew(change):
    """With the old graph still alive. Oracle: the convolution with the kernel as it is now."""
    conv, x = WSConv2d(4, 6, 1), levels()[0]
    alive = conv(x)
    conv.weight.grad = torch.randn_like(conv.weight)
    conv = change(conv)
    x = x.to(conv.weight.dtype)
    assert torch.equal(conv(x), unshared(conv, x))
    assert alive.grad_fn is not None


def test_options_are_part_of_it():
    """Oracle: the arithmetic with the new options."""
    conv, x = WSConv2d(4, 6, 1), levels()[0]
    alive = conv(x)
    conv.configure_ws("bit", eps=0.5)
    expected = F.conv2d(x, standardize_weight(conv.weight, 0.5, formula="bit"), conv.bias)
    assert torch.equal(conv(x), expected)
    assert alive.grad_fn is not None


def test_second_backward_through_a_kept_kernel():
    """A user may hold the kernel. Oracle: it does not run into a freed graph."""
    conv, x = WSConv2d(4, 6, 1), levels()[0]
    held = conv.standardized_weight()
    conv(x).square().sum().backward()
    conv(x).square().sum().backward()
    assert held.grad_fn is not None


def test_no_grad_then_grad():
    """Oracle: a gradient arrives although the first call had none."""
    conv, x = WSConv2d(4, 6, 1), levels()[0]
    with torch.no_grad():
        conv(x)
    conv(x).square().sum().backward()
    assert conv.weight.grad.abs().sum() > 0
    with torch.inference_mode():
        assert torch.equal(conv(x), unshared(conv, x))


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("inside", [[0, 1, 2], [1], [0], [2]])
def test_checkpointing(reentrant, inside):
    """Some levels are checkpointed, some not. Oracle: no checkpointing."""
    conv = WSConv2d(4, 6, 1).double()
    data = [x.double().requires_grad_() for x in levels()]
    outputs = [
        checkpoint(conv, x, use_reentrant=reentrant) if i in inside else conv(x)
        for i, x in enumerate(data)
    ]
    total(outputs).backward()
    grad, conv.weight.grad = conv.weight.grad, None
    total(unshared(conv, x) for x in data).backward()
    # float64, the levels added in another order
    torch.testing.assert_close(grad, conv.weight.grad, rtol=1e-10, atol=1e-10)


def test_autocast():
    """Inside and outside of it in one step. Oracle: the unshared convolution, bit by bit."""
    conv, x = WSConv2d(4, 6, 1), levels()[0]
    outside = conv(x)
    with torch.autocast("cpu", torch.bfloat16):
        inside = conv(x)
        assert torch.equal(inside, unshared(conv, x)) and inside.dtype == torch.bfloat16
    assert torch.equal(outside, unshared(conv, x))


def test_functional_call_and_transforms():
    """Oracle: the kernel that was passed in."""
    conv, x = WSConv2d(4, 6, 1, bias=False), levels()[0]
    alive = conv(x)
    other = {"weight": torch.randn(6, 4, 1, 1)}
    out = torch.func.functional_call(conv, other, (x,))
    assert torch.equal(out, F.conv2d(x, standardize_weight(other["weight"])))
    assert alive.grad_fn is not None


def test_compiled():
    """Oracle: eager, and one kernel for both calls in one graph."""
    conv, (x, y, _) = WSConv2d(4, 6, 1), levels()
    compiled = torch.compile(lambda: total([conv(x), conv(y)]), backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(), total([conv(x), conv(y)]), rtol=1e-5, atol=1e-5)
