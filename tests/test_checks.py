"""What a run needs of the machine. Oracles: a file where a folder is wanted, and by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from ws_det.checks import check_gpus, check_writable
from ws_det.errors import InputError


@pytest.mark.parametrize("below", ["", "below/it"])
def test_not_writable(tmp_path: Path, below: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sentence has the path as it was given, all of what is in the way, and the flag."""
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "file"
    file.write_text("kept")
    given = Path("file", below)
    with pytest.raises(InputError) as refused:
        check_writable(str(given), "--out")
    assert str(refused.value).startswith(f"{given} cannot be written ({file}: ")
    assert str(refused.value).endswith(": give another --out") and file.read_text() == "kept"


def test_writable_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither in a folder that exists nor where folders would have to be made."""
    monkeypatch.chdir(tmp_path)
    for path in (str(tmp_path), str(tmp_path / "new/er"), "relative", "."):
        check_writable(path, "--out")
    assert list(tmp_path.iterdir()) == []


def test_more_processes_than_gpus() -> None:
    """Oracle: both counts in the sentence; without GPUs the CPU serves any number."""
    with pytest.raises(InputError, match=r"3 processes .* 2 GPUs: start 2, or .*CUDA_VISIBLE"):
        check_gpus(3, 2)
    check_gpus(2, 2)
    check_gpus(64, 0)
