"""The layers against torch's own classes, mmcv's ConvWS and ConvAWS, and loops."""

import copy
import inspect
import io

import pytest
import torch
from torch import nn

from ws_det import layers
from ws_det.functional import FORMULAS, standardize_weight
from ws_det.layers import WSConv1d, WSConv2d, WSConv3d, WSConvTranspose2d
from ws_det.norms import BatchChannelNorm2d, EstBatchNorm2d

# (WS class, torch's class, spatial size)
CONVS = [
    (WSConv1d, nn.Conv1d, (9,)),
    (WSConv2d, nn.Conv2d, (9, 8)),
    (WSConv3d, nn.Conv3d, (7, 6, 5)),
    (WSConvTranspose2d, nn.ConvTranspose2d, (5, 4)),
]
# Two orders of summation, which processors have of their own: some units in the last digits.
FLOAT64 = dict(rtol=1e-12, atol=1e-12)


def native(conv, plain_class):
    """The oracle: torch's own convolution holding the standardized kernel."""
    names = inspect.signature(plain_class).parameters.keys() - {"bias", "device", "dtype"}
    options = {name: getattr(conv, name) for name in names}
    plain = plain_class(**options, bias=conv.bias is not None)
    plain.to(conv.weight.device, conv.weight.dtype)
    state = dict(conv.state_dict())
    transposed = isinstance(conv, nn.ConvTranspose2d)
    state["weight"] = standardize_weight(
        conv.weight.detach(), transposed=transposed, groups=conv.groups
    )
    plain.load_state_dict(state)
    return plain


@pytest.mark.parametrize("ws_class, plain_class, size", CONVS)
@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("dilation, stride", [(1, 1), (2, 1), (1, 2)])
@pytest.mark.parametrize("bias", [True, False])
def test_conv_equals_torch_with_standardized_kernel(
    ws_class, plain_class, size, groups, dilation, stride, bias
):
    """Oracle: torch's class with the standardized kernel; batches of 2 and of 0."""
    conv = ws_class(4, 8, 3, stride=stride, padding=1, dilation=dilation, groups=groups, bias=bias)
    conv.double()
    assert isinstance(conv, plain_class)
    assert conv.state_dict().keys() == plain_class(4, 8, 3, bias=bias).state_dict().keys()
    plain = native(conv, plain_class)
    for batch in (2, 0):
        x = torch.randn(batch, 4, *size, dtype=torch.float64)
        torch.testing.assert_close(conv(x), plain(x), **FLOAT64)
    conv(x).sum().backward()  # x is empty here
    assert all(p.grad is not None and not p.grad.any() for p in conv.parameters())


@pytest.mark.parametrize("ws_class, plain_class, size", CONVS[:3])
@pytest.mark.parametrize("padding_mode", ["zeros", "reflect", "replicate", "circular"])
def test_padding_modes(ws_class, plain_class, size, padding_mode):
    """Oracle: torch's class. mmcv's ConvWS drops padding_mode without a word."""
    conv = ws_class(4, 8, 3, padding=1, padding_mode=padding_mode).double()
    x = torch.randn(2, 4, *size, dtype=torch.float64)
    torch.testing.assert_close(conv(x), native(conv, plain_class)(x), **FLOAT64)


def test_string_padding_and_output_size():
    """Oracle: torch's classes, arguments that only one of them has."""
    conv = WSConv2d(4, 8, 3, padding="same", dilation=2).double()
    x = torch.randn(1, 4, 9, 9, dtype=torch.float64)
    torch.testing.assert_close(conv(x), native(conv, nn.Conv2d)(x), **FLOAT64)
    up = WSConvTranspose2d(4, 8, 3, stride=2, padding=1).double()
    plain = native(up, nn.ConvTranspose2d)
    torch.testing.assert_close(
        up(x, output_size=[18, 18]), plain(x, output_size=[18, 18]), **FLOAT64
    )


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_dtypes_and_memory_formats(dtype, memory_format):
    """Oracle: torch's class in the same dtype and format, the same kernel: the same bits."""
    conv = WSConv2d(8, 8, 3, dtype=dtype).to(memory_format=memory_format)
    x = torch.randn(2, 8, 9, 9).to(dtype).to(memory_format=memory_format)
    plain = native(conv, nn.Conv2d).to(memory_format=memory_format)
    out = conv(x)
    assert out.dtype == dtype
    assert out.is_contiguous(memory_format=memory_format)
    assert torch.equal(out, plain(x))


def test_autocast_convolves_in_bfloat16():
    """Oracle: torch's class with the float32 kernel under the same autocast: the same bits."""
    conv = WSConv2d(8, 8, 3)
    x = torch.randn(2, 8, 9, 9)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = conv(x)
        assert out.dtype == torch.bfloat16
        assert torch.equal(out, native(conv, nn.Conv2d)(x))
    out.float().square().sum().backward()
    assert conv.weight.grad.dtype == torch.float32 and conv.weight.grad.isfinite().all()


def test_device_argument():
    """Oracle: torch's meaning of device."""
    assert WSConv2d(4, 8, 3, device="meta").weight.is_meta
    assert BatchChannelNorm2d(32, device="meta", estimate=True).bn.running_mean.is_meta


@pytest.mark.parametrize(
    "build, shape",
    [
        (lambda: WSConv2d(8, 8, 1, groups=8), r"\(8, 1, 1, 1\)"),
        (lambda: WSConv1d(1, 4, 1), r"\(4, 1, 1\)"),
        (lambda: WSConv3d(6, 6, 1, groups=6), r"\(6, 1, 1, 1, 1\)"),
        (lambda: WSConvTranspose2d(8, 8, 1, groups=8), r"\(8, 1, 1, 1\)"),
    ],
)
def test_fan_in_one_raises_with_the_shape(build, shape):
    """Oracle: ValueError that has the kernel's shape."""
    with pytest.raises(ValueError, match=shape + " has fan-in 1"):
        build()


def test_unknown_formula_and_repr():
    """Oracle: the option's value in the message and in the repr."""
    with pytest.raises(ValueError, match="'gn'"):
        WSConv2d(4, 8, 3, formula="gn")
    assert "formula='bit', eps=1e-10, scale=False" in repr(
        WSConv2d(4, 8, 3, formula="bit", scale=False)
    )


@pytest.mark.parametrize("groups", [1, 2])
def test_default_equals_mmcv_conv_ws(groups):
    """Oracle: mmcv's ConvWS, output and gradients, loaded from its state dict."""
    mmcv = pytest.importorskip("mmcv.cnn.bricks.conv_ws", reason="needs mmcv")
    theirs = mmcv.ConvWS2d(64, 32, 3, padding=1, groups=groups).double()
    ours = WSConv2d(64, 32, 3, padding=1, groups=groups).double()
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(2, 64, 8, 8, dtype=torch.float64)
    outs = theirs(x), ours(x)
    torch.testing.assert_close(outs[1], outs[0], **FLOAT64)
    for out in outs:
        (out * torch.linspace(-1, 1, out.numel()).view_as(out)).sum().backward()
    scale = theirs.weight.grad.abs().max()
    torch.testing.assert_close(ours.weight.grad / scale, theirs.weight.grad / scale, **FLOAT64)


def test_adaptive_equals_mmcv_conv_aws():
    """Oracle: mmcv's ConvAWS, from a plain checkpoint and from one of its own."""
    mmcv = pytest.importorskip("mmcv.cnn.bricks.conv_ws", reason="needs mmcv")
    plain = nn.Conv2d(16, 8, 3).state_dict()
    theirs = mmcv.ConvAWS2d(16, 8, 3).double()
    ours = WSConv2d(16, 8, 3, formula="bcn", adaptive=True).double()
    x = torch.randn(2, 16, 8, 8, dtype=torch.float64)
    for state in (plain, {**theirs.state_dict(), "weight_gamma": torch.rand(8, 1, 1, 1) + 0.5}):
        for conv in (theirs, ours):
            missing, unexpected = conv.load_state_dict(state, strict=False)
            assert not missing and not unexpected
        assert ours.state_dict().keys() == theirs.state_dict().keys()
        for name, tensor in theirs.state_dict().items():
            torch.testing.assert_close(ours.state_dict()[name], tensor, **FLOAT64)
        torch.testing.assert_close(ours(x), theirs(x), **FLOAT64)


@pytest.mark.parametrize("formula", FORMULAS)
@pytest.mark.parametrize("ws_class, plain_class, size", CONVS)
def test_adaptive_keeps_the_function_of_a_plain_checkpoint(ws_class, plain_class, size, formula):
    """Oracle: the plain convolution that wrote the checkpoint."""
    plain = plain_class(4, 8, 3, groups=2).double()
    conv = ws_class(4, 8, 3, groups=2, formula=formula, adaptive=True).double()
    conv.load_state_dict(plain.state_dict())
    x = torch.randn(2, 4, *size, dtype=torch.float64)
    torch.testing.assert_close(conv(x), plain(x), **FLOAT64)
    with pytest.raises(RuntimeError, match="weight_gamma"):  # a half checkpoint is an error
        conv.load_state_dict({k: v for k, v in conv.state_dict().items() if k != "weight_gamma"})


def test_no_item_in_forward():
    """Oracle: the meta device, where reading a value raises; .item() would stall a GPU."""
    x = torch.randn(2, 4, 6, 6, device="meta")
    assert WSConv2d(4, 8, 3, device="meta")(x).shape == (2, 8, 4, 4)


EXPORTED = {
    "default": (lambda: WSConv2d(4, 8, 3), (9, 8)),
    "channels_last": (lambda: WSConv2d(4, 8, 3).to(memory_format=torch.channels_last), (9, 8)),
    "adaptive": (lambda: WSConv2d(4, 8, 3, adaptive=True, formula="bit"), (9, 8)),
    "deviation only": (lambda: WSConv2d(4, 8, 3, center=False), (9, 8)),
    "mean only": (
        lambda: WSConv2d(4, 8, 3, padding=1, padding_mode="reflect", scale=False),
        (9, 8),
    ),
    "1d": (lambda: WSConv1d(4, 8, 3), (9,)),
    "3d": (lambda: WSConv3d(4, 8, 3), (5, 5, 5)),
    "transposed": (lambda: WSConvTranspose2d(4, 8, 3, groups=2), (5, 4)),
    "EstBN": (lambda: EstBatchNorm2d(4), (9, 8)),
    "BCN": (lambda: BatchChannelNorm2d(4, 2), (9, 8)),
    "BCN estimate": (lambda: BatchChannelNorm2d(4, 2, estimate=True), (9, 8)),
}


@pytest.mark.parametrize("layer", EXPORTED)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("export", [torch.jit.script, torch.jit.trace])
def test_torchscript(layer, dtype, export):
    """Oracle: the layer itself after saving and loading; another batch size, and 0.

    A graph has the two halves of BCN one after the other: float rounding.

    It stays as it is: scripting replaces the submodules of a model in place if these ask for it.
    """
    build, size = EXPORTED[layer]
    eager = nn.Sequential(build()).to(dtype)
    x = torch.randn(2, 4, *size, dtype=dtype)
    eager(x)  # statistics of some kind
    eager.eval()
    before = eager[0]
    graph = export(eager) if export is torch.jit.script else export(eager, x)
    file = io.BytesIO()
    torch.jit.save(graph, file)
    file.seek(0)
    graph = torch.jit.load(file)
    for batch in (2, 3, 0):
        y = torch.randn(batch, 4, *size, dtype=dtype)
        if "BCN" in layer:
            tolerance = 1e-12 if dtype == torch.float64 else 1e-5
            torch.testing.assert_close(graph(y), eager(y), rtol=tolerance, atol=tolerance)
        else:
            assert torch.equal(graph(y), eager(y))
    assert eager[0] is before
    assert graph.state_dict().keys() == eager.state_dict().keys()


def test_scripted_layers_train():
    """Oracle: the layers themselves: output, gradients, and statistics."""
    eager = nn.Sequential(WSConv2d(4, 8, 3), BatchChannelNorm2d(8, 4, estimate=True)).double()
    scripted = torch.jit.script(copy.deepcopy(eager))
    for _ in range(3):
        x = torch.randn(2, 4, 9, 8, dtype=torch.float64)
        for model in (eager, scripted):
            model.zero_grad()
            model(x).square().sum().backward()
        for ours, theirs in zip(scripted.parameters(), eager.parameters(), strict=True):
            torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-10, atol=1e-10)
        for ours, theirs in zip(scripted.buffers(), eager.buffers(), strict=True):
            torch.testing.assert_close(ours, theirs, **FLOAT64)


def test_public_names():
    """Oracle: DESIGN's list of layers."""
    assert set(layers.__all__) == {
        "WSConv1d", "WSConv2d", "WSConv3d", "WSConvTranspose2d"
    }  # fmt: skip
