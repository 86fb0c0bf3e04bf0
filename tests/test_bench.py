"""tools/benchmark.py, every subcommand at its quickest. Oracle: the files that it leaves."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path

import pytest
import torch

from tools import benchmark
from ws_det.bench.machine import cpu_model, describe_machine
from ws_det.bench.rounds import why_no_compiler

REPO = Path(__file__).resolve().parents[1]
ARMS = {
    "ws": ["bare multiply (the bound)", "ws_det", "ws_det compiled"],
    "bcn": ["GroupNorm", "ws_det, micro-batch", "authors' form, large-batch (formula)"],
    "head": ["GN", "WS+GN, each level (ws_det)", "WS+GN, once a step"],
    "inference": ["plain convolutions", "ws_det, folded", "ws_det, not folded"],
    "eval": ["pycocotools", "ws_det, faster-coco-eval", "ws_det, hotcoco"],
}


@pytest.fixture(autouse=True)
def same_threads():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.mark.slow  # compiles
@pytest.mark.parametrize("what", ARMS)
def test_a_quick_run(what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--quick", "--repeats", "1", "--threads", "1", "--out", str(tmp_path / "new")]
    benchmark.main([what, *flags])
    content = json.loads((tmp_path / f"new/benchmark_{what}.json").read_text())
    assert content["what"] == what and content["rounds"] == 1
    assert content["machine"] == describe_machine("cuda" if torch.cuda.is_available() else "cpu")
    assert content["machine"]["threads"] == 1
    printed = capsys.readouterr().out
    for comparison in content["comparisons"]:
        arms = comparison["arms"]
        assert not comparison["skipped"] or what == "eval" or why_no_compiler()
        assert {*ARMS[what]} <= {*arms, *comparison["skipped"]}
        base = arms[comparison["baseline"]]["median_seconds"]
        for name, numbers in arms.items():
            assert numbers["ratio"] == numbers["median_seconds"] / base
            assert f"\n| {name} | " in printed
        assert comparison["targets"]
        for target in comparison["targets"]:
            assert target["arm"] in arms and target["versus"] in arms
        assert f"### {comparison['title']}\n" in printed
    pytest.importorskip("matplotlib")
    assert (tmp_path / f"new/benchmark_{what}.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize(
    "flags, sentence",
    [
        (["--repeats", "0"], "--repeats 0 is too few: give 1 or more"),
        (["--threads", "-1"], "--threads -1 is too few: give 1 or more"),
    ],
)
def test_a_number_that_is_too_small(flags: list[str], sentence: str, refusal) -> None:
    assert refusal(benchmark, "inference", "--quick", *flags) == f"error: {sentence}"


def test_a_folder_that_cannot_be_written(tmp_path: Path, refusal) -> None:
    (tmp_path / "file").write_text("")
    said = refusal(benchmark, "inference", "--quick", "--out", tmp_path / "file")
    assert "cannot be written" in said and "--out" in said


@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
def test_the_machine_is_named(tmp_path: Path) -> None:
    file = tmp_path / "cpuinfo"
    file.write_text("processor\t: 0\nmodel name\t: Some CPU @ 3:1\nmodel name\t: Other\n")
    assert cpu_model(file) == "Some CPU @ 3:1"
    assert cpu_model(tmp_path / "missing")


def test_commands_of_the_pages_are_commands_of_the_tool() -> None:
    pages = [(REPO / f"docs/{name}.md").read_text() for name in ("performance", "evaluation")]
    lines = [line for page in pages for line in page.splitlines()]
    lines = [line for line in lines if line.startswith("python tools/benchmark.py ")]
    assert {shlex.split(line)[2] for line in lines} == set(benchmark.REPEATS)
    for line in lines:
        benchmark._parse(shlex.split(line, comments=True)[2:])
