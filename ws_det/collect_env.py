"""Say what is installed and whether it works together.

$ python -m ws_det.collect_env
$ python -m ws_det.collect_env --json

Every package is imported and used a little in a process of its own, so a broken one, or one that
crashes, is named and the rest goes on. The exit code is 0 if a detector can be trained: torch, one
of the frameworks and its compiled operators work. Without torch, run this file by its path.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import textwrap
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from importlib.util import find_spec
from pathlib import Path
from typing import Any

_NEEDED = {
    "MMDetection": ("torch", "mmengine", "mmcv", "mmdet"),
    "Detectron2": ("torch", "torchvision", "detectron2"),
}
_OTHERS = (
    "numpy", "pycocotools", "faster_coco_eval", "hotcoco", "timm", "onnx", "onnxruntime",
    "matplotlib", "tensorboard",
)  # fmt: skip
_PACKAGES = tuple(dict.fromkeys(("torch", "ws_det", *sum(_NEEDED.values(), ()), *_OTHERS)))
_TIMEOUT = 300
_LINES = 40  # of a screen

# (package or "", what its error says, the way out)
_FIXES = (
    ("", "pkg_resources", "pip install 'setuptools>=80,<81', the last that has pkg_resources"),
    (
        "mmcv",
        "mmcv._ext",
        "mmcv was built without its operators; beside torch run: pip uninstall mmcv onedl-mmcv; "
        "MMCV_WITH_OPS=1 pip install --no-build-isolation --no-cache-dir onedl-mmcv",
    ),
    ("mmcv", "", "build mmcv again: MMCV_WITH_OPS=1 pip install --no-build-isolation onedl-mmcv"),
    (
        "torchvision",
        "",
        "install the torchvision that belongs to this torch, for torch 2.13.0: "
        "pip install torch===2.13.0 torchvision==0.28.0",
    ),
    (
        "mmdet",
        "is used but incompatible",
        "mmdet asserts another mmcv: pip install 'mmcv<2.2', or the maintained onedl-mmengine, "
        "onedl-mmcv and onedl-mmdetection, which belong together",
    ),
    ("mmengine", "cannot resume", "resume with tools/train.py, which can, or use onedl-mmengine"),
    (
        "detectron2",
        "",
        "build it again beside this torch: pip install --no-build-isolation "
        "git+https://github.com/facebookresearch/detectron2",
    ),
    ("torch", "", "install torch again: pip install --force-reinstall torch"),
    ("", "", "install it again, in the version that belongs to the others"),
)


def collect() -> dict[str, Any]:
    """Probe every package.

    Returns:
        ``python``, ``platform``, ``packages`` (what each probe said, by import name),
        ``frameworks`` (whether each can train), ``problems`` (sentences with the way out) and
        ``works``.
    """
    packages: dict[str, Any] = {}
    start = time.monotonic()
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        waiting = {pool.submit(_probe, name): name for name in _PACKAGES}
        for future in as_completed(waiting):
            packages[waiting[future]] = future.result()
            left = (time.monotonic() - start) * (len(_PACKAGES) / len(packages) - 1)
            _progress(f"{len(packages)} of {len(_PACKAGES)} packages, about {left:.0f} s left")
    _progress("")
    packages = {name: packages[name] for name in _PACKAGES}
    frameworks = {
        framework: all(packages[name]["status"] == "ok" for name in ("ws_det", *needed))
        for framework, needed in _NEEDED.items()
    }
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": packages,
        "frameworks": frameworks,
        "problems": _problems(packages, any(frameworks.values())),
        "works": any(frameworks.values()),
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Print the report; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m ws_det.collect_env",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", action="store_true", help="all that was found, as JSON")
    args = parser.parse_args(argv)
    found = collect()
    print(json.dumps(found, indent=2) if args.json else _screen(found))
    return 0 if found["works"] else 1


def _probe(name: str) -> dict[str, Any]:
    if find_spec(name) is None:
        return {"status": "missing"}
    here = Path(__file__).resolve().parent
    paths = [str(here.parent), os.environ.get("PYTHONPATH")]
    run_path = "import runpy, sys; runpy.run_path(sys.argv[1], run_name='__main__')"
    command = [sys.executable, "-W", "ignore", "-c", run_path, str(here / "probes.py"), name]
    try:
        done = subprocess.run(
            command,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in paths if path)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_TIMEOUT,
        )
    except subprocess.TimeoutExpired:
        return {"status": "broken", "error": f"it does not import within {_TIMEOUT} s"}
    if done.returncode == 0 and done.stdout:
        return json.loads(done.stdout.splitlines()[-1])
    end = f"signal {-done.returncode}" if done.returncode < 0 else f"code {done.returncode}"
    return {"status": "broken", "error": f"the process that imports it ends with {end}"}


def _problems(packages: Mapping[str, Any], works: bool) -> list[str]:
    problems = []
    for name, found in packages.items():
        said = found.get("error") or found.get("problem")
        if said:
            fix = next(f for on, words, f in _FIXES if on in ("", name) and words in said)
            problems.append(f"{name}: {said}: {fix}")
    missing = [name for name in _NEEDED["MMDetection"] if packages[name]["status"] == "missing"]
    if not works and not problems:
        problems.append(
            f"no framework is complete, {' and '.join(missing)} cannot be found: install "
            f"MMDetection with pip install 'ws_det[mmdet]', or Detectron2, as in README.md"
        )
    return problems


def _screen(found: Mapping[str, Any]) -> str:
    lines = [f"Python {found['python']}, {found['platform']}"[:100]]
    for name, probed in found["packages"].items():
        if probed["status"] == "missing":
            continue
        state = probed.get("note", "") if probed["status"] == "ok" else "DOES NOT WORK, see below"
        state = "works, but see below" if "problem" in probed else state
        version = probed.get("version", "")
        if "distribution" in probed:
            version += f" ({probed['distribution']})"
        lines.append(f"  {name:<17}{version:<30} {state}"[:100].rstrip())
    absent = [n for n, probed in found["packages"].items() if probed["status"] == "missing"]
    if absent:
        lines += textwrap.wrap(f"not installed: {', '.join(absent)}", 100)
    for i, problem in enumerate(found["problems"]):
        if len(lines) > _LINES - 6:
            lines.append(f"and {len(found['problems']) - i} problems more, see --json")
            break
        lines += textwrap.wrap(
            f"problem: {problem}", 100, subsequent_indent="    ", max_lines=4, placeholder=" ..."
        )
    can = [framework for framework, works in found["frameworks"].items() if works]
    lines.append(f"detectors can be trained with {' and '.join(can)}" if can
                 else "no detector can be trained yet")  # fmt: skip
    return "\n".join(lines)


def _progress(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
