"""Copies, graphs and files of a layer; what needs no ws_det is loaded where there is none."""

from __future__ import annotations

import copy
import io
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

import torch
from torch import Tensor, fx, nn

from tests.modes.layers import LAYERS, build, images
from tests.modes.runs import close, compare, reference, run
from tests.modes.table import mode
from ws_det import fold_ws

ALONE = "outputs in evaluation mode to 1e-12, loaded in a process where ws_det cannot be imported"
LOAD = """
import sys
sys.modules["ws_det"] = None  # an import of it, or from it, raises
from pathlib import Path
import torch
folder = Path(sys.argv[1])
x = torch.load(folder / "input")
loaders = {
    ".pt2": lambda file: torch.export.load(file).module(),
    ".ts": torch.jit.load,
    ".pth": lambda file: torch.load(file, weights_only=False),
}
for file in sorted(folder.glob("*.*")):
    try:
        found = loaders[file.suffix](file)(x).detach()
    except Exception as error:
        found = f"{type(error).__name__}: {error}"
    torch.save(found, file.with_suffix(file.suffix + "-out"))
"""


def evaluated(name: str) -> tuple[nn.Module, Tensor, Tensor]:
    """A layer in evaluation mode, an input of another size than any before, and the output."""
    module, x = build(name).eval(), images(3, 6)
    return module, x, reference(name, module, x).output[""]


def exported(module: nn.Module, file: Path) -> None:
    torch.export.save(torch.export.export(module, (images(3, 6),)), file)


def scripted(module: nn.Module, file: Path) -> None:
    torch.jit.save(torch.jit.script(module), file)


def traced(module: nn.Module, file: Path) -> None:
    with torch.no_grad():
        torch.jit.save(torch.jit.trace(module, images(2, 5)), file)


def folded(module: nn.Module, file: Path) -> None:
    torch.save(fold_ws(module, bcn=True), file)


WRITERS: dict[str, Callable[[nn.Module, Path], None]] = {
    "exported.pt2": exported,
    "scripted.ts": scripted,
    "traced.ts": traced,
    "folded.pth": folded,
}


@cache
def written() -> dict[tuple[str, str], Tensor | str]:
    """Output of each layer from each kind of file, or the error. One process loads them all."""
    found: dict[tuple[str, str], Tensor | str] = {}
    with tempfile.TemporaryDirectory() as folder:
        torch.save(images(3, 6), Path(folder, "input"))
        for i, name in enumerate(LAYERS):
            for kind, write in WRITERS.items():
                try:
                    write(evaluated(name)[0], Path(folder, f"{i}-{kind}"))
                except Exception as error:
                    found[name, kind] = f"{type(error).__name__}: {error}"
        subprocess.run([sys.executable, "-c", LOAD, folder], check=True)
        for i, name in enumerate(LAYERS):
            for kind in WRITERS:
                if (name, kind) not in found:
                    found[name, kind] = torch.load(Path(folder, f"{i}-{kind}-out"))
    return found


def from_file(kind: str, name: str) -> None:
    got = written()[name, kind]
    assert isinstance(got, Tensor), got
    close("output", {"": got}, {"": evaluated(name)[2]})


mode("torch.export to .pt2", ALONE)(partial(from_file, "exported.pt2"))
mode("TorchScript, scripted", "the same; in training a step in this one")(
    lambda name: (from_file("scripted.ts", name), script_in_training(name))
)
mode("TorchScript, traced", "the same; gradients in evaluation mode in this one")(
    lambda name: (from_file("traced.ts", name), trace_with_gradients(name))
)
mode("folded, pickled", "the same")(partial(from_file, "folded.pth"))


def script_in_training(name: str) -> None:
    module = build(name)
    expected = reference(name, module, images())
    compare(run(torch.jit.script(module), images()), expected)


def trace_with_gradients(name: str) -> None:
    module, x, _ = evaluated(name)
    expected = reference(name, module, x)
    got = run(torch.jit.trace(module, images(2, 5)), x)
    compare(got._replace(statistics=expected.statistics), expected)


@mode("pickle", "a step of the copy and of the original to 1e-12, one moving nothing of the other")
def pickled(name: str) -> None:
    copied(lambda module: pickle.loads(pickle.dumps(module)), name)


@mode("deepcopy", "the same")
def deep_copied(name: str) -> None:
    copied(copy.deepcopy, name)


@mode("torch.save and torch.load", "the same")
def saved(name: str) -> None:
    def through_file(module: nn.Module) -> nn.Module:
        file = io.BytesIO()
        torch.save(module, file)
        file.seek(0)
        return torch.load(file, weights_only=False)

    copied(through_file, name)


def copied(make: Callable[[nn.Module], nn.Module], name: str) -> None:
    """Of a layer in use: it has run, and its graph is alive."""
    module = build(name)
    alive = module(images(seed=7).requires_grad_())
    twin = make(module)
    for either in (twin, module):
        expected = reference(name, either, images())
        compare(run(either, images()), expected)
    assert alive.grad_fn is not None


@mode("fx.symbolic_trace", "outputs, gradients and statistics of a step to 1e-12 of the largest")
def by_fx(name: str) -> None:
    module = build(name)
    expected = reference(name, module, images())
    model = nn.Sequential(module)
    graph = fx.symbolic_trace(model)
    got = run(graph, images())
    compare(
        got._replace(
            gradient={key.removeprefix("0."): grad for key, grad in got.gradient.items()},
            statistics={key.removeprefix("0."): value for key, value in got.statistics.items()},
        ),
        expected,
    )


@mode("meta device, to_empty, load_state_dict(assign=True)",
      "shapes on the meta device, then a step with the loaded state to 1e-12")  # fmt: skip
def from_meta(name: str) -> None:
    for assign in (False, True):
        state = build(name).state_dict()
        with torch.device("meta"):
            module = LAYERS[name].make().double()
        assert module(images().to("meta")).shape == images().shape
        if not assign:
            module.to_empty(device="cpu")
        module.load_state_dict(state, assign=assign)
        expected = reference(name, module, images())
        compare(run(module, images()), expected)
