"""One package each, imported and used a little; run in a process of its own by collect_env.

Nothing but the standard library is imported at the top: a broken torch is found as well.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections import Counter
from importlib import import_module, metadata
from typing import Any


def probe(name: str) -> dict[str, Any]:
    """Import a package, use it, and say what came of it.

    Args:
        name: Its import name.

    Returns:
        ``status`` ("ok" or "broken"), ``version``, ``distribution`` where its name is
        another, ``note``, ``error``, and ``problem`` for what does not keep it from working.
    """
    found: dict[str, Any] = {"status": "ok"}
    try:
        module = import_module(name)
        found |= _version(name, module)
        found |= _USES.get(name, dict)()
    except BaseException as error:  # whatever a broken package raises, SystemExit included
        lines = str(error).splitlines() or [""]
        found |= {"status": "broken", "error": f"{type(error).__name__}: {lines[0]}"}
    return found


def _version(name: str, module: Any) -> dict[str, Any]:
    # Distributions of one import name differ, so the version is asked of the module first.
    named = metadata.packages_distributions().get(name, [])
    version = getattr(module, "__version__", None)
    if version is None and named:
        version = metadata.version(named[0])
    other = [dist for dist in named if dist.replace("-", "_") != name]
    return {"version": str(version)} | ({"distribution": other[0]} if other else {})


def _torch() -> dict[str, Any]:
    import torch

    torch.ones(2).sum()
    devices = [
        (torch.cuda.get_device_name(i), torch.cuda.get_device_properties(i).total_memory)
        for i in range(torch.cuda.device_count())
    ]
    gpus = [f"{n} x {gpu} ({size / 2**30:.0f} GiB)" for (gpu, size), n in Counter(devices).items()]
    cuda = f"CUDA {torch.version.cuda}" if torch.version.cuda else "built without CUDA"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    note = f"{cuda}; {', '.join(gpus) or 'no GPU'}; CPU cores: {cores}"
    return {"note": note, "gpus": gpus, "cores": cores}


def _ws_det() -> dict[str, Any]:
    """WS and BCN beside their definitions, written out here, in float64."""
    import torch

    import ws_det

    torch.manual_seed(0)
    weight, x = torch.randn(8, 4, 3, 3).double(), torch.randn(2, 8, 5, 5).double()
    kernel = torch.stack([(w - w.mean()) / (w.std() + 1e-5) for w in weight])
    errors = [(ws_det.standardize_weight(weight) - kernel).abs().max()]
    norm = ws_det.BatchChannelNorm2d(8, num_groups=2).double()
    mean, variance = x.mean((0, 2, 3)), x.var((0, 2, 3), unbiased=False)
    batch = (x - mean[:, None, None]) / (variance[:, None, None] + 1e-5).sqrt()
    groups = batch.view(2, 2, -1)
    channel = (groups - groups.mean(-1, keepdim=True)) / (
        groups.var(-1, unbiased=False, keepdim=True) + 1e-5
    ).sqrt()
    errors.append((norm(x) - channel.view_as(x)).abs().max())
    worst = max(error.item() for error in errors)
    if not worst < 1e-9:
        raise ArithmeticError(f"WS or BCN is {worst:.1e} off its definition")
    return {"note": f"WS and BCN are within {worst:.0e} of their definitions"}


def _torchvision() -> dict[str, Any]:
    import torch
    from torchvision.ops import nms

    assert nms(torch.tensor([[0.0, 0, 1, 1]] * 2), torch.ones(2), 0.5).numel() == 1
    return {"note": "its operators work"}


def _mmcv() -> dict[str, Any]:
    import_module("mmcv._ext")
    import torch
    from mmcv.ops import nms

    assert len(nms(torch.tensor([[0.0, 0, 1, 1]] * 2), torch.ones(2), 0.5)[1]) == 1
    return {"note": "its operators work"}


def _mmengine() -> dict[str, Any]:
    """Whether its own loader reads what its own runner saves."""
    import torch
    from mmengine.logging import HistoryBuffer
    from mmengine.runner.checkpoint import load_checkpoint, save_checkpoint

    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "c.pth")
        model = torch.nn.Linear(1, 1)
        content = {
            "state_dict": model.state_dict(),
            "message_hub": {"loss": HistoryBuffer([1.0], [1])},
        }
        save_checkpoint(content, path)
        try:
            load_checkpoint(model, path)
        except Exception as error:
            return {"problem": f"its own loader cannot resume a run ({type(error).__name__})"}
    return {"note": "its own loader can resume"}


def _mmdet() -> dict[str, Any]:
    import_module("mmdet.models")
    return {}


def _detectron2() -> dict[str, Any]:
    import_module("detectron2._C")
    for name in ("model_zoo", "modeling", "engine"):
        import_module(f"detectron2.{name}")
    return {"note": "its operators work"}


_USES = {
    "torch": _torch,
    "ws_det": _ws_det,
    "torchvision": _torchvision,
    "mmengine": _mmengine,
    "mmcv": _mmcv,
    "mmdet": _mmdet,
    "detectron2": _detectron2,
}

if __name__ == "__main__":
    answer = probe(sys.argv[-1])
    # alone on the last line, whatever the package has printed
    print("\n" + json.dumps(answer), flush=True)
    os._exit(0)  # without the package's own clean-up, which may crash too
