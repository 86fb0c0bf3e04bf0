"""The norms against loops, torch's own classes, and themselves in another mode."""

import copy
import math

import pytest
import torch
from torch import nn

from ws_det import norms
from ws_det.norms import BatchChannelNorm2d, EstBatchNorm2d

# Two orders of summation of float32: some units in the seventh digit.
FLOAT64 = dict(rtol=1e-12, atol=1e-12)


def bcn_oracle(layer, x, state, training):
    """BCN as the authors' release computes it, with loops over channels and groups, in float64."""
    n, channels, groups, eps = x.shape[0], x.shape[1], layer.num_groups, layer.eps
    estimate = isinstance(layer.bn, EstBatchNorm2d)
    out = torch.empty_like(x)
    for c in range(channels):
        mean, var = x[:, c].mean(), x[:, c].var(correction=0)
        count = x[:, c].numel()
        if training and estimate:
            var = (x[:, c] - state["mean"][c]).square().mean()
            state["mean"][c] += layer.bn.momentum * (mean - state["mean"][c])
            state["var"][c] += layer.bn.momentum * (var - state["var"][c])
        elif training:  # torch's batch norm keeps the unbiased variance
            state["mean"][c] += layer.bn.momentum * (mean - state["mean"][c])
            unbiased = var * count / (count - 1)
            state["var"][c] += layer.bn.momentum * (unbiased - state["var"][c])
        if estimate or not training:
            mean, var = state["mean"][c].clone(), state["var"][c].clone()
        out[:, c] = (x[:, c] - mean) / math.sqrt(var + eps) * layer.bn.weight[c] + layer.bn.bias[c]
    for i in range(n):
        for g in range(groups):
            part = slice(g * channels // groups, (g + 1) * channels // groups)
            value = out[i, part]
            value = (value - value.mean()) / (value.var(correction=0) + eps).sqrt()
            out[i, part] = layer.weight[0, g, 0] * value + layer.bias[0, g, 0]
    return out


@pytest.mark.parametrize("estimate", [False, True])
def test_bcn_equals_loop_over_ten_training_steps(estimate):
    """Oracle: the authors' release as loops; outputs and statistics over 10 steps, then eval."""
    layer = BatchChannelNorm2d(8, num_groups=4, estimate=estimate, dtype=torch.float64)
    for parameter in layer.parameters():
        nn.init.uniform_(parameter, 0.5, 1.5)
    state = {"mean": torch.zeros(8).double(), "var": torch.ones(8).double()}
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    for step in range(11):
        layer.train(step < 10)
        x = 2 * torch.randn(2, 8, 5, 4, dtype=torch.float64) + step
        with torch.no_grad():
            expected = bcn_oracle(layer, x, state, layer.training)
        out = layer(x)
        torch.testing.assert_close(out, expected, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(layer.bn.running_mean, state["mean"], rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(layer.bn.running_var, state["var"], rtol=1e-10, atol=1e-10)
        optimizer.zero_grad()
        out.square().mean().backward()
        optimizer.step()
    assert layer.bn.num_batches_tracked == 10


# EstBN in training is no function of its input alone; test_functional has its gradient.
@pytest.mark.parametrize("estimate, training", [(False, True), (False, False), (True, False)])
def test_bcn_gradcheck(estimate, training):
    """Oracle: finite differences for input and all parameters."""
    layer = BatchChannelNorm2d(4, num_groups=2, estimate=estimate, dtype=torch.float64)
    layer.train(training)
    x = torch.randn(2, 4, 3, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, *p: layer(x), (x, *layer.parameters()))


@pytest.mark.parametrize("estimate", [False, True])
def test_bcn_shapes_and_keys_are_the_authors(estimate):
    """Oracle: the parameter shapes and buffer names of the BCN release."""
    state = BatchChannelNorm2d(64, num_groups=32, estimate=estimate).state_dict()
    assert state["weight"].shape == state["bias"].shape == (1, 32, 1)
    inner = {"weight", "bias", "running_mean", "running_var", "num_batches_tracked"}
    assert {key.removeprefix("bn.") for key in state if key.startswith("bn.")} == inner


@pytest.mark.parametrize("build", [EstBatchNorm2d, lambda c, **k: BatchChannelNorm2d(c, 2, **k)])
@pytest.mark.parametrize("momentum", [0, 0.0, -0.1, 1.5, float("nan")])
def test_bad_momentum_raises_with_the_value(build, momentum):
    """Oracle: ValueError. The authors' default of 0 never learns."""
    with pytest.raises(ValueError, match=f"momentum .* got {momentum}"):
        build(8, momentum=momentum)


@pytest.mark.parametrize("channels, groups", [(48, 32), (8, 0), (8, 16)])
def test_groups_that_do_not_divide_raise_with_both_numbers(channels, groups):
    """Oracle: ValueError with both numbers."""
    with pytest.raises(ValueError, match=f"num_groups={groups} .*num_features={channels}"):
        BatchChannelNorm2d(channels, num_groups=groups)


NORMS = {
    "EstBN": lambda: EstBatchNorm2d(8),
    "BCN": lambda: BatchChannelNorm2d(8, 4),
    "BCN estimate": lambda: BatchChannelNorm2d(8, 4, estimate=True),
}


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("training", [True, False])
def test_empty_input(norm, training):
    """Oracle: nothing was seen, so nothing moves; DDP still needs a gradient of every parameter."""
    layer = NORMS[norm]().train(training)
    before = copy.deepcopy(layer.state_dict())
    out = layer(torch.randn(0, 8, 7, 7))
    out.sum().backward()
    assert out.shape == (0, 8, 7, 7)
    for name, tensor in layer.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    for name, parameter in layer.named_parameters():
        assert parameter.grad is not None and not parameter.grad.any(), name


@pytest.mark.parametrize("norm", NORMS)
def test_one_image_alone_or_in_a_batch_in_eval(norm):
    """Oracle: evaluation knows no batch. The same arithmetic, so the same bits."""
    layer = NORMS[norm]()
    x = torch.randn(5, 8, 6, 7)
    layer(x)  # statistics of some kind
    layer.eval()
    assert torch.equal(layer(x)[2:3], layer(x[2:3]))


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_norms_take_half_inputs(norm, dtype):
    """Oracle: the float32 layer on the same numbers; half an output's last place and its input's.

    Values of some hundreds overflow float16 statistics if those are not kept in float32.
    """
    layer = NORMS[norm]()
    x = (300 * torch.randn(4, 8, 9, 9) + 100).to(dtype)
    reference = copy.deepcopy(layer)
    out, expected = layer(x), reference(x.float())
    assert out.dtype == dtype
    for name, buffer in reference.named_buffers():
        torch.testing.assert_close(dict(layer.named_buffers())[name], buffer, rtol=2e-3, atol=1e-2)
    # Outputs reach 4; the inner norm's result is rounded to dtype before the groups' norm.
    error = (out.float() - expected).abs().max()
    assert error <= 16 * torch.finfo(dtype).eps


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("images", [1, 2])
def test_channels_last_inputs(norm, images):
    """Oracle: the contiguous input."""
    layer, twin = NORMS[norm]().double(), NORMS[norm]().double()
    x = torch.randn(images, 8, 6, 5, dtype=torch.float64).requires_grad_()
    y = x.detach().to(memory_format=torch.channels_last).requires_grad_()
    out, expected = layer(y), twin(x)
    torch.testing.assert_close(out, expected, **FLOAT64)
    weights = torch.randn_like(expected)
    grads = [torch.autograd.grad((o * weights).sum(), i)[0] for o, i in ((out, y), (expected, x))]
    torch.testing.assert_close(*grads, **FLOAT64)
    for ours, theirs in zip(layer.buffers(), twin.buffers(), strict=True):
        torch.testing.assert_close(ours, theirs, **FLOAT64)


def test_inner_norm_is_sync_bn_convertible():
    """Oracle: torch's converter, there and back by hand; parameters are kept."""
    layer = BatchChannelNorm2d(8, 4)
    weight = layer.bn.weight
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(layer)
    assert isinstance(converted, BatchChannelNorm2d)
    assert isinstance(converted.bn, nn.SyncBatchNorm) and converted.bn.weight is weight
    # EstBN has its own way of being equal on all ranks, and must not be touched.
    estimate = BatchChannelNorm2d(8, 4, estimate=True)
    assert isinstance(nn.SyncBatchNorm.convert_sync_batchnorm(estimate).bn, EstBatchNorm2d)


def test_est_bn_is_no_batch_norm_but_a_norm():
    """Oracle: the types by which both frameworks stop batch norms and spare norms from decay."""
    layer = EstBatchNorm2d(8)
    assert not isinstance(layer, nn.modules.batchnorm._BatchNorm)
    assert isinstance(layer, nn.InstanceNorm2d)
    assert isinstance(BatchChannelNorm2d(32), nn.GroupNorm)


def test_frozen_est_bn_keeps_its_estimates():
    """Oracle: the layer in eval mode; without affine parameters nothing can be frozen."""
    layer = BatchChannelNorm2d(8, 4, estimate=True)
    x = torch.randn(2, 8, 6, 5)
    layer(x)  # statistics of some kind
    layer.requires_grad_(False)
    before = copy.deepcopy(layer.state_dict())
    out = layer.train()(x)
    assert all(torch.equal(tensor, before[name]) for name, tensor in layer.state_dict().items())
    assert torch.equal(out, layer.eval()(x))
    layer.train().requires_grad_(True)(x)
    assert not torch.equal(layer.bn.running_mean, before["bn.running_mean"])
    plain = EstBatchNorm2d(8, affine=False)
    plain(x)
    assert plain.running_mean.any()


def test_est_bn_refuses_other_ranks():
    """Oracle: ValueError with the shape."""
    with pytest.raises(ValueError, match=r"\[8, 6\]"):
        EstBatchNorm2d(8)(torch.randn(8, 6))


@pytest.mark.parametrize("norm", NORMS)
def test_compiled_layers_train(norm):
    """Oracle: the layer in eager: outputs, gradients and statistics of three steps.

    The statistics move between forward and backward of a compiled graph. Float64, sums in another
    order.
    """
    layer = NORMS[norm]().double()
    twin = copy.deepcopy(layer)
    torch._dynamo.reset()
    whole = hasattr(torch.library, "custom_op")  # else the update is outside of the graph
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=whole)
    for step in range(3):
        data = 2 * torch.randn(2, 8, 6, 5, dtype=torch.float64) + step
        weights = torch.randn_like(data)
        inputs = [data.clone().requires_grad_() for _ in range(2)]
        for run, own in zip((compiled, twin), inputs, strict=True):
            (run(own) * weights).sum().backward()
        close = dict(rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(inputs[0].grad, inputs[1].grad, **close)
        for own, other in zip(layer.parameters(), twin.parameters(), strict=True):
            torch.testing.assert_close(own.grad, other.grad, **close)
        for own, other in zip(layer.buffers(), twin.buffers(), strict=True):
            torch.testing.assert_close(own, other, **close)


def test_no_item_in_any_forward():
    """Oracle: the meta device, where reading a value raises; .item() would stall a GPU."""
    for build in NORMS.values():
        layer = build().to("meta")
        assert layer(torch.randn(2, 8, 6, 6, device="meta")).shape == (2, 8, 6, 6)


def test_public_names():
    """Oracle: what the adapters and users import."""
    assert set(norms.__all__) == {"EstBatchNorm2d", "BatchChannelNorm2d", "average_estimates"}


@pytest.mark.parametrize("norm", ["EstBN", "BCN estimate"])
def test_one_bad_image_does_not_spoil_the_estimates(norm):
    """Oracle: the layer that never saw it; in a plain loop, as torch's batch norm recovers too."""
    layer = NORMS[norm]()
    x, bad = torch.randn(2, 8, 6, 5), torch.randn(2, 8, 6, 5)
    layer(x)
    twin = copy.deepcopy(layer)
    for value in (float("nan"), float("inf"), 1e30):  # 1e30 is finite, its square is not
        bad[1, 2:5, 3, 3] = value
        out = layer(bad)
        assert not out[:, 2:5].isfinite().all() or value == 1e30  # it is not hidden
    for name, buffer in layer.named_buffers():
        assert buffer.isfinite().all(), name
        if buffer.ndim:  # not the counter
            assert torch.equal(buffer[2:5], dict(twin.named_buffers())[name][2:5]), name
    assert layer.train()(x).isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    ("norm", "how"),
    # The inner norm of the large-batch form is torch's, which takes the type of what is assigned.
    [(n, h) for n in NORMS for h in ("to", "built", "loaded") if (n, h) != ("BCN", "loaded")],
)
def test_a_half_model_keeps_its_statistics_in_float32(norm, dtype, how):
    """Oracle: the float32 layer. The variance of values of 300 is beyond float16."""
    layer = NORMS[norm]()
    x = (300 * torch.randn(4, 8, 9, 9)).to(dtype)
    reference = copy.deepcopy(layer)
    if how == "to":
        layer = layer.to(dtype)
    elif how == "built":
        kind = {"EstBN": EstBatchNorm2d, "BCN": BatchChannelNorm2d}[norm.partition(" ")[0]]
        options = dict(estimate="estimate" in norm) if kind is BatchChannelNorm2d else {}
        groups = (4,) if kind is BatchChannelNorm2d else ()
        layer = kind(8, *groups, dtype=dtype, **options)
    else:
        layer.load_state_dict(copy.deepcopy(layer).half().state_dict(), assign=True)
        layer = layer.to(dtype)
    for _ in range(30):
        out, expected = layer(x), reference(x.float())
    assert out.dtype == dtype and next(layer.parameters()).dtype == dtype
    for name, buffer in reference.named_buffers():
        own = dict(layer.named_buffers())[name]
        assert own.dtype == buffer.dtype
        torch.testing.assert_close(own, buffer, rtol=1e-5, atol=1e-3)
    # Both halves' parameters are 1 and 0 here; the rest is the rounding of the output.
    assert (out.float() - expected).abs().max() <= 16 * torch.finfo(dtype).eps
    layer.eval(), reference.eval()
    assert (layer(x).float() - reference(x.float())).abs().max() <= 16 * torch.finfo(dtype).eps


@pytest.mark.parametrize("estimate", [False, True])
@pytest.mark.parametrize("kind", ["forward", "forward_pre", "full_backward", "all modules"])
def test_hooks_of_the_inner_norm_fire(estimate, kind):
    """Oracle: torch calls a child's hooks; the output with them is that without, to rounding."""
    layer = BatchChannelNorm2d(8, 4, estimate=estimate).double()
    twin = copy.deepcopy(layer)
    seen = []
    if kind == "all modules":
        handle = nn.modules.module.register_module_forward_hook(lambda m, *_: seen.append(m))
    else:
        handle = getattr(layer.bn, f"register_{kind}_hook")(lambda m, *_: seen.append(m))
    try:
        x = torch.randn(2, 8, 5, 5, dtype=torch.float64, requires_grad=True)
        out = layer(x)
        out.square().sum().backward()
    finally:
        handle.remove()
    assert layer.bn in seen
    torch.testing.assert_close(out, twin(x), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(layer.bn.running_var, twin.bn.running_var)


@pytest.mark.parametrize("norm", NORMS)
def test_one_value_per_channel(norm):
    """An image of one cell. Oracle: torch refuses to train a batch norm on it; others are norms."""
    layer = NORMS[norm]().double()
    x = 1e4 * torch.randn(1, 8, 1, 1, dtype=torch.float64)
    if norm == "BCN":
        with pytest.raises(ValueError, match="more than 1 value per channel"):
            layer(x)
    else:
        state = {"mean": torch.zeros(8).double(), "var": torch.ones(8).double()}
        out = layer(x)
        if norm == "BCN estimate":
            expected = bcn_oracle(layer, x, state, True)
            torch.testing.assert_close(out, expected, rtol=1e-10, atol=1e-10)
    assert layer.eval()(x).isfinite().all()
