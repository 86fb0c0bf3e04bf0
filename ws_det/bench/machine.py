"""Name the machine that numbers come from."""

from __future__ import annotations

import platform
from pathlib import Path

import torch


def describe_machine(device: str) -> dict[str, str | int]:
    """The processor or GPU, how many threads torch uses, and torch's version."""
    return {
        "device": torch.cuda.get_device_name() if device == "cuda" else cpu_model(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def cpu_model(path: Path = Path("/proc/cpuinfo")) -> str:
    """What the processor calls itself; its architecture where the system does not say."""
    lines = path.read_text().splitlines() if path.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
