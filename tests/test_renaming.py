"""A model with WS takes weights under other names, in torch alone. Oracle: names by hand."""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from ws_det import InputError, convert_to_ws, fold_ws, renaming

# Detectron2's name of each of the model's, and that of the WS authors' release: by hand.
NAMES = {
    "conv1": ("stem.conv1", "conv1"),
    "gn1": ("stem.conv1.norm", "bn1"),
    "layer1.0.conv1": ("res2.0.conv1", "layer1.0.conv1"),
    "layer1.0.gn1": ("res2.0.conv1.norm", "layer1.0.bn1"),
    "layer1.0.conv2": ("res2.0.conv2", "layer1.0.conv2"),
    "layer1.0.gn2": ("res2.0.conv2.norm", "layer1.0.bn2"),
}
DETECTRON2, JHU = 0, 1


def network(norm: str = "gn") -> nn.Module:
    """A ResNet of MMDetection's names, without what lies between its layers."""

    def layers(first: int, *sizes: int) -> OrderedDict[str, nn.Module]:
        found = OrderedDict()
        for number, size in enumerate(sizes, 1):
            found[f"conv{number}"] = nn.Conv2d(first, 8, size, bias=False)
            found[f"{norm}{number}"] = nn.GroupNorm(2, 8)
        return found

    layer, stem = nn.Sequential(nn.Sequential(layers(8, 1, 3))), layers(3, 7)
    return convert_to_ws(nn.Sequential(OrderedDict(**stem, layer1=layer)))


def named(state: dict[str, Tensor], column: int) -> dict[str, Tensor]:
    found = {}
    for key, value in state.items():
        module, _, leaf = key.rpartition(".")
        found[f"{NAMES[module][column]}.{leaf}"] = value
    return found


def filled() -> nn.Module:
    model = network()
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    return model


def assert_equal(model: nn.Module, state: dict[str, Tensor]) -> None:
    own = model.state_dict()
    assert own.keys() == state.keys()
    assert all(torch.equal(own[key], state[key]) for key in own)


def test_a_model_under_the_authors_names_takes_others():
    state = filled().state_dict()
    model = network(norm="bn")
    model.load_state_dict(named(state, DETECTRON2))
    assert_equal(model, named(state, JHU))


@pytest.mark.parametrize("column", [DETECTRON2, JHU])
@pytest.mark.parametrize("wrap", [dict, lambda s: {"model": s}, lambda s: {"state_dict": s}])
def test_other_names_are_taken(column, wrap, capsys):
    state = filled().state_dict()
    given = wrap(named(state, column))
    before = dict(given)
    model = network()
    model.load_state_dict(given)  # strictly
    assert_equal(model, state)
    assert given == before  # the caller's dict is his
    said = capsys.readouterr().err
    assert said.startswith("warning: the weights are of ") and "9 of them are loaded" in said


def test_own_names_need_no_word(capsys):
    state = filled().state_dict()
    model = network()
    model.load_state_dict(state)
    assert_equal(model, state)
    assert capsys.readouterr().err == ""


def test_a_part_finds_its_place():
    """A backbone's weights in a detector: those of the backbone, and no other."""
    state = filled().state_dict()
    model = nn.Sequential(OrderedDict(backbone=network(), head=nn.Conv2d(8, 1, 1)))
    convert_to_ws(model)
    head = model.head.weight.clone()
    model.load_state_dict(named(state, DETECTRON2), strict=False)
    assert_equal(model.backbone, state)
    assert torch.equal(model.head.weight, head)


def test_copies_take_other_names_too():
    state = filled().state_dict()
    model = copy.deepcopy(network())
    model.load_state_dict(named(state, DETECTRON2))
    assert_equal(model, state)


def test_what_does_not_fit_in_shape_is_named(capsys):
    state = named(filled().state_dict(), DETECTRON2)
    state["res2.0.conv2.weight"] = torch.zeros(8, 8, 5, 5)
    model = network()
    found = model.load_state_dict(state, strict=False)
    assert found.missing_keys == ["layer1.0.conv2.weight"]
    assert "1 are of another shape (layer1.0.conv2.weight)" in capsys.readouterr().err


@pytest.mark.parametrize("frozen", [False, True])
def test_weights_of_no_known_names_are_not_passed_over(frozen, capsys):
    state = {f"encoder.{number}.weight": torch.zeros(8, 8, 3, 3) for number in range(3)}
    model = network()
    model.conv1.requires_grad_(not frozen)
    if frozen:
        with pytest.raises(InputError, match="1 of them are frozen and would stay random"):
            model.load_state_dict(state, strict=False)
        return
    model.load_state_dict(state, strict=False)
    assert "3 of 3 kernels of WS convolutions (as conv1.weight)" in capsys.readouterr().err


def test_a_head_alone_is_no_fault(capsys):
    model = nn.Sequential(OrderedDict(backbone=network(), head=nn.Conv2d(8, 1, 1)))
    convert_to_ws(model)
    model.load_state_dict({"head.weight": torch.zeros(1, 8, 1, 1)}, strict=False)
    assert capsys.readouterr().err == ""


def test_folded_weights_are_refused_under_other_names():
    folded = fold_ws(filled()).state_dict()
    state = OrderedDict(named(folded, DETECTRON2))
    state._metadata = OrderedDict(
        (NAMES[name][DETECTRON2], entry)
        for name, entry in folded._metadata.items()
        if name in NAMES
    )
    with pytest.raises(InputError, match="folded and would be standardized twice"):
        network().load_state_dict(state)


def test_kernels_without_ws_are_told_once(capsys):
    """Kernels with a mean, as training without WS gives them, under the model's own names."""
    state = {k: v + 1 if v.ndim == 4 else v for k, v in filled().state_dict().items()}
    other = network()
    for _ in range(2):
        other.load_state_dict(state)
    said = capsys.readouterr().err
    assert said.count("trained with GN without WS weights") == 1


def test_a_pickle_of_a_folded_model_needs_no_ws_det(tmp_path: Path):
    path = tmp_path / "model.pkl"
    path.write_bytes(pickle.dumps(fold_ws(network())))
    code = "import pickle, sys; sys.modules['ws_det'] = None; pickle.load(open(sys.argv[1], 'rb'))"
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-c", code, str(path)], check=True, env=environment)


def test_a_model_can_still_be_scripted():
    torch.jit.script(network())


def test_a_compiled_front_of_a_model_can_be_made():
    """Once a framework's adapter is there, every module that ours are put into is watched."""
    renaming.pass_on_to_parents()
    state, model = filled().state_dict(), network()
    torch.compile(model, backend="eager").load_state_dict(named(state, DETECTRON2))
    assert_equal(model, state)
