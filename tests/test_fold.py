"""Folding against the unfolded model, and every way to misuse a folded one."""

import copy
import io
import pickle
import subprocess
import sys

import pytest
import torch
from torch import nn

from ws_det import (
    FORMULAS,
    EstBatchNorm2d,
    WSConv1d,
    WSConv2d,
    WSConv3d,
    WSConvTranspose2d,
    convert_to_ws,
    fold_ws,
)
from ws_det.fold import is_folded


def network(**options):
    return nn.Sequential(
        WSConv2d(3, 8, 3, padding=1, padding_mode="reflect", **options),
        nn.GroupNorm(4, 8),
        WSConvTranspose2d(8, 8, 2, stride=2, groups=2, **options),
        nn.GroupNorm(4, 8),
        nn.Conv2d(8, 2, 1),
    )


@pytest.mark.parametrize("formula", FORMULAS)
@pytest.mark.parametrize("adaptive", [False, True])
def test_output_equals_the_unfolded_model(formula, adaptive):
    """Oracle: the unfolded model, to 1e-5 relative: the same kernels in the same convolutions."""
    model = network(formula=formula, adaptive=adaptive).eval()
    if adaptive:
        nn.init.uniform_(model[0].weight_gamma, 0.5, 1.5)
    x = torch.randn(2, 3, 9, 9)
    expected = model(x)
    assert fold_ws(model) is model
    error = (model(x) - expected).norm() / expected.norm()
    assert error <= 1e-5
    assert [type(m) for m in model] == [
        nn.Conv2d, nn.GroupNorm, nn.ConvTranspose2d, nn.GroupNorm, nn.Conv2d,
    ]  # fmt: skip


@pytest.mark.parametrize(
    "conv, size",
    [(WSConv1d(4, 8, 3), (9,)), (WSConv3d(4, 8, 3), (5, 5, 5)), (WSConv2d(4, 8, 3), (5, 5))],
)
def test_every_class_folds(conv, size):
    """Oracle: the layer before folding, bit by bit: the kernel is the same tensor."""
    conv = copy.deepcopy(conv).eval()
    x = torch.randn(2, 4, *size)
    expected = conv(x)
    assert torch.equal(fold_ws(conv)(x), expected)


def test_state_dict_loads_into_plain_torch():
    """Oracle: a model that never heard of WS, strict loading, the same output."""
    model = fold_ws(network().eval())
    plain = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, padding_mode="reflect"),
        nn.GroupNorm(4, 8),
        nn.ConvTranspose2d(8, 8, 2, stride=2, groups=2),
        nn.GroupNorm(4, 8),
        nn.Conv2d(8, 2, 1),
    ).eval()
    plain.load_state_dict(model.state_dict())
    x = torch.randn(2, 3, 9, 9)
    assert torch.equal(plain(x), model(x))


def test_shared_kernel_is_standardized_once():
    """Oracle: the unfolded model."""
    first, second = WSConv2d(4, 4, 3, padding=1), WSConv2d(4, 4, 3, padding=1)
    second.weight = first.weight
    model = nn.Sequential(first, nn.GroupNorm(2, 4), second, nn.GroupNorm(2, 4)).eval().double()
    x = torch.randn(1, 4, 6, 6, dtype=torch.float64)
    expected = model(x)
    torch.testing.assert_close(fold_ws(model)(x), expected, rtol=1e-12, atol=1e-12)


def test_folding_twice_is_refused():
    """Oracle: RuntimeError; also for a copy, for the model around it, and with nothing to fold."""
    model = fold_ws(network())
    kernel = model[0].weight.clone()
    for again in (model, copy.deepcopy(model), nn.Sequential(model, WSConv2d(4, 4, 3))):
        with pytest.raises(RuntimeError, match="folded already"):
            fold_ws(again)
    assert torch.equal(model[0].weight, kernel)
    with pytest.raises(ValueError, match="no WS convolution"):
        fold_ws(nn.Conv2d(3, 4, 3))


def test_training_a_folded_model_is_refused():
    """Oracle: RuntimeError in training mode with gradients, alone or as a part; else it runs."""
    backbone = fold_ws(network())
    x = torch.randn(1, 3, 9, 9)
    for model in (backbone, nn.Sequential(backbone, nn.ReLU()), copy.deepcopy(backbone)):
        with pytest.raises(RuntimeError, match="folded model cannot be trained"):
            model.train()(x)
        with torch.no_grad():
            model(x)
        model.eval()(x)


def test_folded_weights_are_marked_and_refused_by_ws_convolutions():
    """Oracle: the mark survives torch.save with weights_only, and stays off raw checkpoints."""
    raw = network()
    assert not is_folded(raw.state_dict())
    file = io.BytesIO()
    torch.save(fold_ws(copy.deepcopy(raw)).state_dict(), file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    assert is_folded(state)
    with pytest.raises(RuntimeError, match=r"0\.weight is folded"):
        raw.load_state_dict(state)


@pytest.mark.parametrize("export", [torch.jit.script, torch.jit.trace])
def test_a_folded_model_exports(export):
    """Oracle: the folded model, bit by bit; its guard is no obstacle, and still there."""
    model = fold_ws(network().eval())
    x = torch.randn(2, 3, 9, 9)
    graph = export(model) if export is torch.jit.script else export(model, x)
    assert torch.equal(graph(x), model(x))
    with pytest.raises(RuntimeError, match="folded model cannot be trained"):
        model.train()(x)


def test_a_folded_deconvolution_refuses_training_too():
    """Oracle: RuntimeError, with and without an output size; TorchScript takes the layer."""
    up = fold_ws(nn.Sequential(WSConvTranspose2d(4, 4, 2, stride=2)))[0]
    x = torch.randn(1, 4, 3, 3)
    for arguments in ((x,), (x, [6, 6])):
        with pytest.raises(RuntimeError, match="folded model cannot be trained"):
            up(*arguments)
        assert torch.equal(torch.jit.script(up.eval())(*arguments), up(*arguments))
        up.train()


def pickled():
    """A folded model with each kind of layer, and a hook of its owner's on one of them."""
    model = nn.Sequential(network(), WSConv2d(2, 8, 3), EstBatchNorm2d(8), WSConv2d(8, 8, 1))
    fused = nn.Sequential(WSConv2d(8, 4, 3), nn.BatchNorm2d(4)).eval()
    fused = torch.nn.utils.fusion.fuse_conv_bn_eval(*fused)
    return nn.Sequential(fold_ws(model), fused).eval()


LOAD = """
import sys
sys.modules["ws_det"] = None  # an import raises
import torch
model, x, expected = torch.load(sys.argv[1], weights_only=False)
assert torch.equal(model(x), expected)
torch.save(model, sys.argv[2])
"""


def test_a_pickled_folded_model_needs_no_ws_det(tmp_path):
    """Oracle: a process that cannot import it. The mark comes back from there."""
    model, x = pickled(), torch.randn(1, 3, 12, 12)
    files = [str(tmp_path / name) for name in ("there.pth", "back.pth")]
    torch.save((model, x, model(x)), files[0])
    command = [sys.executable, "-W", "ignore", "-c", LOAD, *files]
    run = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    assert b"ws_det" not in pickle.dumps(model)
    back = torch.load(files[1], weights_only=False)
    assert is_folded(back.state_dict())
    with pytest.raises(RuntimeError, match="folded already"):
        fold_ws(back)
    raw = convert_to_ws(nn.Sequential(nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8)))
    with pytest.raises(RuntimeError, match="is folded"):
        raw.load_state_dict(pickle.loads(pickle.dumps(fold_ws(copy.deepcopy(raw)))).state_dict())


def test_hooks_of_others_on_a_folded_layer():
    """Oracle: torch's rules: a hook runs until it is removed, and goes into a pickle and a copy."""
    before = []
    conv = WSConv2d(3, 4, 3)
    early = conv.register_forward_pre_hook(lambda module, inputs: before.append("early"))
    fold_ws(conv).eval()
    late = conv.register_forward_pre_hook(lambda module, inputs: before.append("late"))
    x = torch.randn(1, 3, 5, 5)
    conv(x)
    assert before == ["early", "late"]
    early.remove()
    copy.deepcopy(conv)(x)
    assert before == ["early", "late", "late"]
    late.remove()
    conv(x)
    assert len(before) == 3 and b"ws_det" in pickle.dumps(conv)  # its dict of hooks is older

    other = fold_ws(WSConv2d(3, 4, 3)).eval()
    other.register_forward_pre_hook(print)
    loaded = pickle.loads(pickle.dumps(other))
    assert list(loaded._forward_pre_hooks.values()) == [print]


def test_a_folded_model_compiles():
    """Oracle: eager; the refusal works there too."""
    torch._dynamo.reset()
    model = fold_ws(network()).eval()
    compiled, x = torch.compile(model, backend="aot_eager"), torch.randn(1, 3, 9, 9)
    torch.testing.assert_close(compiled(x), model(x))
    with pytest.raises(RuntimeError, match="folded model cannot be trained"):
        torch.compile(model.train(), backend="aot_eager")(x)
