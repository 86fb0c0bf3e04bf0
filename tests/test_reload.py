"""``importlib.reload``, as a notebook does it after an edit. Oracle: no error, the same output."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

REPO = Path(__file__).resolve().parents[1]

RELOAD = """
import importlib, pathlib, sys
import torch, ws_det

def compute(model, x):
    return torch.compile(model, backend="aot_eager")(x)

def build():
    torch.manual_seed(0)
    norm = ws_det.BatchChannelNorm2d(8, 4, estimate=True)
    return torch.nn.Sequential(ws_det.WSConv2d(4, 8, 3), norm).eval()

x = torch.randn(1, 4, 6, 6)
before, count = build(), 0
expected = compute(before, x)
root = pathlib.Path(ws_det.__file__).parent
for path in sorted(root.rglob("*.py")):
    parts = path.relative_to(root.parent).with_suffix("").parts
    name = ".".join(parts).removesuffix(".__init__")
    try:
        module = importlib.import_module(name)
    except ImportError:  # of a framework that is not installed
        continue
    except ws_det.errors.FrameworkError:
        continue
    if name.rpartition(".")[0] not in ("", *sys.modules):  # of such a framework, and imported by it
        continue
    for _ in range(2):
        importlib.reload(module)
    count += 1
for model in (before, build()):
    torch.testing.assert_close(compute(model, x), expected)
print(count, "modules reloaded")
"""


def test_every_module_can_be_loaded_again() -> None:
    """In a process of its own: a reload makes new classes. Models from before go on too."""
    command = [sys.executable, "-W", "ignore", "-c", RELOAD]
    run = subprocess.run(command, cwd=REPO, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-2000:]
    count = int(run.stdout.split()[-3])
    assert count > 60
    print(f"{count} modules reloaded")
