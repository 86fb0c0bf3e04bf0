"""Ten thousand damaged state dicts and files through all that takes weights from a user.

Oracle: each ends in a right result or in one sentence of an InputError, within a time limit, and
leaves no half-written file. What is right is said in each case. Seeded, so a failure comes again:
WS_DET_FUZZ=<cases> makes it longer.
"""

from __future__ import annotations

import copy
import io
import math
import os
import pickle
import random
import signal
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tools import convert_checkpoint
from ws_det import WSConv2d, fold_ws
from ws_det.adopt import adopt_ws
from ws_det.checkpoint import load_checkpoint, save_checkpoint, state_dict_of
from ws_det.errors import InputError
from ws_det.fit import check_backbone, check_start, check_whole
from ws_det.fold import is_folded
from ws_det.formats import FORMATS, convert_state

CASES = int(os.environ.get("WS_DET_FUZZ", 10_000))
SECONDS = 10  # for one case; they take milliseconds

# What torch does not save; the file of the case before is then taken again.
UNSAVABLE = AttributeError, NotImplementedError, RuntimeError, TypeError, pickle.PicklingError

State = dict[Any, Any]


class Hang(BaseException):
    """No Exception, so that nothing takes it for a damaged file."""


@contextmanager
def time_limit() -> Iterator[None]:
    def ring(*_: object) -> None:
        raise Hang

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


class Block(nn.Module):
    """Three convolutions with their norms, and a shortcut, with the names of MMDetection."""

    def __init__(self, channels: int, conv: type[nn.Module], norm: str, shortcut: bool) -> None:
        super().__init__()
        made = {"gn": lambda c: nn.GroupNorm(2, c), "bn": nn.BatchNorm2d}[norm]
        for i, size in enumerate((1, 3, 1), 1):
            self.add_module(f"conv{i}", conv(channels, channels, size, bias=False))
            self.add_module(f"{norm}{i}", made(channels))
        if shortcut:
            plain = conv(channels, channels, 1, bias=False)
            self.downsample = nn.Sequential(plain, made(channels))


class Backbone(nn.Module):
    """The names and ranks of a ResNet of MMDetection, with four channels."""

    def __init__(self, conv: type[nn.Module], norm: str) -> None:
        super().__init__()
        self.conv1 = conv(3, 4, 7, bias=False)
        self.add_module(f"{norm}1", nn.GroupNorm(2, 4) if norm == "gn" else nn.BatchNorm2d(4))
        for i in range(1, 5):
            self.add_module(f"layer{i}", nn.Sequential(Block(4, conv, norm, i in (1, 4))))


class Detector(nn.Module):
    """A backbone and the FPN and heads that have a counterpart elsewhere."""

    def __init__(self, conv: type[nn.Module] = WSConv2d, norm: str = "gn") -> None:
        super().__init__()
        self.backbone = Backbone(conv, norm)
        self.neck = nn.Module()
        for kind, size in (("lateral", 1), ("fpn", 3)):
            convs = nn.ModuleList(
                nn.ModuleDict({"conv": conv(4, 4, size, bias=False), "gn": nn.GroupNorm(2, 4)})
                for _ in range(4)
            )
            self.neck.add_module(f"{kind}_convs", convs)
        self.rpn_head = nn.ModuleDict(
            {"rpn_conv": nn.Conv2d(4, 4, 3), "rpn_cls": nn.Conv2d(4, 3, 1),
             "rpn_reg": nn.Conv2d(4, 12, 1)}
        )  # fmt: skip
        box = {"shared_fcs": nn.ModuleList([nn.Linear(16, 8), nn.Linear(8, 8)]),
               "fc_cls": nn.Linear(8, 4), "fc_reg": nn.Linear(8, 12)}  # fmt: skip
        self.roi_head = nn.ModuleDict({"bbox_head": nn.ModuleDict(box)})


MODELS = {
    "gn+ws": Detector(WSConv2d, "gn"),
    "gn": Detector(nn.Conv2d, "gn"),
    "bn": Detector(nn.Conv2d, "bn"),
    "bn+ws": Detector(WSConv2d, "bn"),
}


def states() -> list[OrderedDict[str, Any]]:
    """What is damaged: detectors and backbones of every family, folded, and in other formats."""
    whole = [model.state_dict() for model in MODELS.values()]
    backbones = [model.backbone.state_dict() for model in MODELS.values()]
    folded = fold_ws(copy.deepcopy(MODELS["gn+ws"])).state_dict()
    others = [
        convert_state(state, to).state
        for state in (whole[0], backbones[0])
        for to in ("detectron2", "jhu")
    ]
    return [*whole, *backbones, folded, *others]


def test_the_originals_are_taken() -> None:
    """Or the cases below would show nothing."""
    for name, model in MODELS.items():
        check_whole(model, model.state_dict(), "c.pth", "")
        assert name.endswith("ws") or adopt_ws(model.state_dict())
    assert len(states()) == 13


# --- damage to a state dict ---------------------------------------------------------------------


def odd_values(chance: random.Random, old: Any) -> Any:
    """Another thing in the place of a tensor."""
    shape = tuple(old.shape) if isinstance(old, torch.Tensor) else (4,)
    new = torch.randn(shape)
    return chance.choice(
        [
            lambda: None, lambda: "text", lambda: 3, lambda: [1, 2], lambda: {"a": torch.ones(2)},
            lambda: torch.empty(0), lambda: torch.tensor(1.0), lambda: new.unsqueeze(-1),
            lambda: new.flatten(), lambda: new.expand(3, *shape), lambda: new.flatten()[:1],
            lambda: torch.randn(shape[::-1]), lambda: torch.randn([s + 1 for s in shape]),
            lambda: new.half(), lambda: new.bfloat16(), lambda: new.double(), lambda: new.int(),
            lambda: new > 0, lambda: new.to(torch.complex64), lambda: new.to(torch.float8_e4m3fn),
            lambda: new * math.nan, lambda: new * math.inf, lambda: new * 0, lambda: new * 1e38,
            lambda: new.to_sparse(), lambda: torch.empty(shape, device="meta"),
            lambda: torch.zeros(1).expand(10**6, 10**6, 3, 3), lambda: nn.Parameter(new),
            lambda: torch.empty(0, 4, 3, 3), lambda: torch.zeros(2, 2, 2, 2, 2, 2, 2),
            lambda: np.ones(3), lambda: torch.nested.nested_tensor([torch.ones(2)]),
            lambda: torch.quantize_per_tensor(new, 0.1, 0, torch.qint8),
        ]
    )()  # fmt: skip


def odd_keys(chance: random.Random, old: str) -> Any:
    """Another name for a tensor."""
    at = chance.randrange(len(old) + 1)
    return chance.choice(
        [
            "", ".", "..", "weight", ".weight", "a" * 10_000, "a." * 5_000, "\x00", "two\nlines",
            "ключ", 3, None,
            (1, 2), b"conv1.weight", old + ".", "." + old, old.upper(), old[:at], old[at:],
            old.replace(".", ".."), "module." + old, "backbone." + old, old[:at] + "x" + old[at:],
            old.removeprefix("backbone."), old + ".weight", old.replace("weight", "bias"),
            old.replace("1", "2"), old.replace("0", "99999999999"), old.replace("layer", "res"),
            "conv.weight_gamma", old + "_gamma", "state_dict", "model", "layer1.0.convs.x.weight",
        ]
    )  # fmt: skip


def damage_state(chance: random.Random, state: State) -> State:
    """A copy with up to three faults."""
    damaged = OrderedDict(state)
    damaged._metadata = copy.deepcopy(getattr(state, "_metadata", OrderedDict()))
    for _ in range(chance.choice((1, 1, 2, 3))):
        keys = list(damaged)
        if not keys:
            break
        key = chance.choice(keys)
        kind = chance.randrange(9)
        if kind == 0:
            for gone in chance.sample(keys, chance.choice((1, 1, len(keys) // 2, len(keys)))):
                del damaged[gone]
        elif kind == 1:
            damaged[odd_keys(chance, str(key))] = odd_values(chance, damaged[key])
        elif kind in (2, 3):
            new = odd_keys(chance, str(key))
            damaged = OrderedDict((new if k == key else k, v) for k, v in damaged.items())
        elif kind in (4, 5):
            damaged[key] = odd_values(chance, damaged[key])
        elif kind == 6:
            damaged = OrderedDict((f"module.{k}", v) for k, v in damaged.items())
        elif kind == 7:
            chance.shuffle(keys)
            damaged = OrderedDict((k, damaged[k]) for k in keys)
        else:
            odd = chance.choice([None, {}, [], {"a": None}, {"": {"ws_folded": True}}, {3: {}}, 7])
            damaged._metadata = odd
    return damaged


# --- damage to a file ---------------------------------------------------------------------------


def files(folder: Path, all_states: list[OrderedDict[str, Any]]) -> list[tuple[str, bytes]]:
    """Name and content of every kind of file."""
    small = all_states[4]
    arrays = {key: value.numpy() for key, value in small.items()}
    made = []
    for name, write in {
        "a.pth": lambda path: torch.save({"state_dict": small, "meta": {"epoch": 3}}, path),
        "b.pth.tar": lambda path: torch.save(small, path, _use_new_zipfile_serialization=False),
        "c.pkl": lambda path: path.write_bytes(pickle.dumps({"model": arrays, "__author__": "x"})),
        "d.pkl": lambda path: path.write_bytes(pickle.dumps({"blobs": arrays}, 2)),
        "e.npz": lambda path: np.savez(path, **arrays),
        "f.npz": lambda path: np.savez_compressed(path, **arrays),
    }.items():
        write(folder / name)
        made.append((name, (folder / name).read_bytes()))
    return made


def damage_bytes(chance: random.Random, content: bytes) -> bytes:
    """A copy that is cut, has flipped bits, or pieces taken out, put in or repeated."""
    damaged = bytearray(content)
    for _ in range(chance.choice((1, 1, 2, 8, 64))):
        at = chance.randrange(len(damaged) or 1)
        # half of the faults where the structure is, at the start and the end
        if chance.random() < 0.5:
            at = (
                min(at, chance.randrange(600))
                if chance.random() < 0.5
                else max(0, len(damaged) - 1 - chance.randrange(600))
            )
        kind = chance.randrange(6)
        if kind == 0 and chance.random() < 0.3:
            del damaged[at:]
        elif kind in (0, 1, 2) and damaged:
            damaged[at] ^= 1 << chance.randrange(8)
        elif kind == 3 and damaged:
            damaged[at] = chance.choice(
                (0, 255, ord("."), ord("R"), ord("c"), chance.randrange(256))
            )
        elif kind == 4:
            del damaged[at : at + chance.choice((1, 2, 8, 100))]
        else:
            damaged[at:at] = chance.choice((b"\0" * 9, chance.randbytes(5), damaged[at : at + 50]))
    return bytes(damaged)


# --- what is done with them ---------------------------------------------------------------------


def preflight(chance: random.Random, state: State) -> None:
    """Right: a whole checkpoint has all keys of the model in their shapes, and no other."""
    state = state_dict_of(state)
    model = copy.deepcopy(chance.choice(list(MODELS.values())))
    own = model.state_dict()
    check = chance.choice((check_whole, check_start, check_backbone))
    module = model.backbone if check is check_backbone else model
    with redirect_stderr(io.StringIO()):
        check(module, state, "c.pth", "take others", force=chance.random() < 0.3)
    names = set(module.state_dict())
    if check is check_whole and names & set(state):
        needed = {key: value.shape for key, value in own.items() if "num_batches" not in key}
        assert needed == {key: state[key].shape for key in needed}
        assert set(state) <= set(own)
        model.load_state_dict(state, strict=False)
    else:
        assert len(names & set(state) or taken(module, state)) > 0.1 * len(names)


def taken(module: nn.Module, state: State) -> list[str]:
    """What a model takes of weights, by whatever names, that is not 0."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.zero_()
    module.load_state_dict(dict(state), strict=False)
    return [name for name, parameter in module.named_parameters() if parameter.any()]


def convert(chance: random.Random, state: State) -> None:
    """Right: every weight is in the result under one name, or named as left out."""
    state = state_dict_of(state)
    converted = convert_state(state, chance.choice(list(FORMATS)))
    left = set(converted.unmatched) | set(converted.needless)
    assert left <= set(state)
    assert len(converted.state) == len(state) - len(left)
    assert all(isinstance(value, torch.Tensor) for value in converted.state.values())


def adopt(chance: random.Random, state: State) -> None:
    """Right: all that was there, and new constants in the shape of their kernels."""
    state = state_dict_of(state)
    adopted = adopt_ws(state)
    assert all(adopted[key] is state[key] for key in state)
    new = set(adopted) - set(state)
    assert new and all(key.endswith(("weight_gamma", "weight_beta")) for key in new)


def fold(chance: random.Random, state: State) -> None:
    """As the tool does it. Right: the kernel that the WS convolution used, marked."""
    state = state_dict_of(state)
    model = copy.deepcopy(MODELS["gn+ws"])
    check_whole(model, state, "c.pth", "take others")
    model.load_state_dict(state, strict=False)
    kernel = model.backbone.conv1.standardized_weight()
    folded = fold_ws(model.eval()).state_dict()
    assert torch.equal(folded["backbone.conv1.weight"].nan_to_num(), kernel.nan_to_num())
    assert is_folded(folded)


def ended(case: Callable[[], object], seed: str) -> str:
    """How a case ended; everything but a result or one sentence fails the test, with its seed."""
    try:
        with time_limit():
            case()
    except InputError as error:
        assert str(error) and "\n" not in str(error) and len(str(error)) < 30_000, seed
        return "one sentence"
    except BaseException as error:
        raise AssertionError(f"{seed} ended in {type(error).__name__}: {error}") from error
    return "a right result"


def summary(capsys: pytest.CaptureFixture[str], what: str, outcomes: Counter[str]) -> None:
    with capsys.disabled():
        counts = ", ".join(f"{count:,} {outcome}" for outcome, count in sorted(outcomes.items()))
        print(f"\n{what}: {counts}, nothing else")
    assert min(outcomes.values()) > 0.02 * outcomes.total(), "one of the outcomes hardly occurs"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("use", "share"), [(preflight, 0.09), (convert, 0.2), (adopt, 0.15), (fold, 0.03)]
)
def test_damaged_state_dicts(
    use: Callable[..., None], share: float, capsys: pytest.CaptureFixture[str]
) -> None:
    originals, outcomes = states(), Counter()
    for i in range(round(CASES * share)):
        chance = random.Random(f"{use.__name__} {i}")
        state = damage_state(chance, chance.choice(originals))
        outcomes[ended(partial(use, chance, state), f"{use.__name__} {i}")] += 1
    summary(capsys, f"state dicts, {use.__name__}", outcomes)


@pytest.mark.filterwarnings("ignore")
def test_damaged_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Right: a dict, which the checks take or refuse; in .pth and .npz the weights that were saved.

    Those have check sums. Pickled arrays have none, and a file of old torch has none.
    """
    originals, outcomes = files(tmp_path, states()), Counter()
    saved = [load_checkpoint(tmp_path / name) for name, _ in originals]
    for i in range(CASES // 2):
        chance = random.Random(f"file {i}")
        which = chance.randrange(len(originals))
        name, content = originals[which]
        path = tmp_path / name
        path.write_bytes(damage_bytes(chance, content))

        sure = state_dict_of(saved[which]) if name in ("a.pth", "e.npz", "f.npz") else None
        outcomes[ended(partial(take, path, sure), f"file {i} {name}")] += 1
    summary(capsys, "files", outcomes)


def take(path: Path, expected: State | None) -> None:
    """Load a file and check it; ``expected`` are its weights, where it has check sums."""
    state = state_dict_of(load_checkpoint(path))
    for key in set(state) & set(expected or ()):
        assert same(state[key], expected[key]), key
    with redirect_stderr(io.StringIO()):
        check_backbone(copy.deepcopy(MODELS["gn+ws"].backbone), state, str(path), "take others")


def same(one: Any, other: Any) -> bool:
    return isinstance(one, torch.Tensor) and one.shape == other.shape and torch.equal(one, other)


@pytest.mark.filterwarnings("ignore")
def test_damaged_files_through_the_tool(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Right: a new file that loads. After a refusal the old one is there, byte for byte."""
    originals, outcomes = states(), Counter()
    kinds = files(tmp_path, originals)
    target = tmp_path / "out" / "new.pth"
    target.parent.mkdir()
    for i in range(CASES * 3 // 100):
        chance = random.Random(f"tool {i}")
        source = tmp_path / "state.pth"
        if chance.random() < 0.5:
            name, content = chance.choice(kinds)
            source = tmp_path / name
            source.write_bytes(damage_bytes(chance, content))
        else:
            state = damage_state(chance, chance.choice(originals))
            with suppress(*UNSAVABLE):
                save_checkpoint(state, source)
        target.write_bytes(b"old")
        options = chance.choice(
            (["--to", chance.choice(convert_checkpoint.TARGETS)], ["--adopt-ws"])
        ) + ["--force"] * chance.randrange(2)

        outcome = ended(partial(quietly, [str(source), str(target), *options]), f"tool {i}")
        outcomes[outcome] += 1
        assert os.listdir(target.parent) == ["new.pth"]
        if outcome == "one sentence":
            assert target.read_bytes() == b"old", f"tool {i}"
        else:
            assert state_dict_of(load_checkpoint(target))
    summary(capsys, "files, convert_checkpoint", outcomes)


def quietly(arguments: list[str]) -> None:
    with redirect_stdout(io.StringIO()):
        convert_checkpoint.main(arguments)
