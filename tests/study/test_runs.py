"""The driver of a study's runs. Oracle: what the runs themselves leave in files."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from ws_det.errors import InputError
from ws_det.study.runs import Run, run_all

REPO = Path(__file__).resolve().parents[2]
FUNCTIONS = """
import os, time
from pathlib import Path

def square(settings, folder):
    print("squaring", settings["x"])
    with open(folder.parent / "calls.txt", "a") as file:
        file.write(f"{folder.name}\\n")
    assert not list(folder.glob("left*")), "the folder is not empty"
    return {"y": settings["x"] ** 2}

def fail(settings, folder):
    raise RuntimeError("no luck")

def meet(settings, folder):
    Path(folder.parent, folder.name + ".here").touch()
    end = time.time() + 60
    while len(list(folder.parent.glob("*.here"))) < 2:
        assert time.time() < end, "the other never came"
        time.sleep(0.01)
    return {}

def threads(settings, folder):
    import torch
    return {"threads": torch.get_num_threads()}

def stay(settings, folder):
    (folder / "pid").write_text(str(os.getpid()))
    time.sleep(60)
"""


@pytest.fixture(autouse=True)
def functions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "functions_of_runs.py").write_text(FUNCTIONS)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{REPO}")


def run(name: str, function: str = "square", **settings: object) -> Run:
    return Run(name, f"functions_of_runs:{function}", settings)


def calls(folder: Path) -> list[str]:
    return (folder / "calls.txt").read_text().split()


def test_runs_are_kept_and_not_repeated(tmp_path: Path) -> None:
    said: list[str] = []
    runs = [run("a", x=2), run("b", x=3)]
    results = run_all(lambda results: runs, tmp_path / "out", 1, said.append)
    assert results == {"a": {"y": 4}, "b": {"y": 9}}
    assert "squaring 2" in (tmp_path / "out/a/log.txt").read_text()
    kept = json.loads((tmp_path / "out/a/run.json").read_text())
    assert kept["task"]["settings"] == {"x": 2} and kept["seconds"] > 0
    assert said[0].startswith("[1/2] a: y 4; ") and "left of the runs" in said[0]
    assert run_all(lambda results: runs, tmp_path / "out", 1, said.append) == results
    assert calls(tmp_path / "out") == ["a", "b"] and len(said) == 2
    # other settings: only that run, into an empty folder
    (tmp_path / "out/b/left.txt").touch()
    runs[1] = run("b", x=4)
    assert run_all(lambda results: runs, tmp_path / "out", 1)["b"] == {"y": 16}
    assert calls(tmp_path / "out") == ["a", "b", "b"]


def test_a_plan_may_depend_on_results(tmp_path: Path) -> None:
    def plan(results):
        first = [run("a", x=2), run("b", x=3)]
        if not {"a", "b"} <= results.keys():
            return first
        return [*first, run("sum", x=results["a"]["y"] + results["b"]["y"])]

    assert run_all(plan, tmp_path / "out", 2)["sum"] == {"y": 169}
    assert run_all(plan, tmp_path / "out", 2)["sum"] == {"y": 169}
    assert sorted(calls(tmp_path / "out")) == ["a", "b", "sum"]


def test_jobs_run_at_the_same_time(tmp_path: Path) -> None:
    runs = [run("a", "meet"), run("b", "meet")]
    assert run_all(lambda results: runs, tmp_path / "out", 2) == {"a": {}, "b": {}}


def test_a_failed_run_is_named_and_the_others_are_kept(tmp_path: Path) -> None:
    runs = [run("a", x=2), run("bad", "fail"), run("c", x=3)]
    with pytest.raises(InputError, match=r"1 runs failed, bad first: see .*bad/log\.txt"):
        run_all(lambda results: runs, tmp_path / "out", 1)
    assert "no luck" in (tmp_path / "out/bad/log.txt").read_text()
    runs[1] = run("bad", x=5)
    assert run_all(lambda results: runs, tmp_path / "out", 1)["bad"] == {"y": 25}
    assert calls(tmp_path / "out") == ["a", "bad", "c"]


def test_a_run_has_one_thread(tmp_path: Path) -> None:
    assert run_all(lambda results: [run("a", "threads")], tmp_path, 1) == {"a": {"threads": 1}}


def test_no_process_is_left_when_the_driver_ends(tmp_path: Path) -> None:
    place = tmp_path / "out/a/pid"

    def plan(results):
        if "b" in results:
            while not place.is_file() or not place.read_text():
                time.sleep(0.01)
            raise KeyboardInterrupt
        return [run("a", "stay"), run("b", x=1)]

    with pytest.raises(KeyboardInterrupt):
        run_all(plan, tmp_path / "out", 2)
    with pytest.raises(ProcessLookupError):
        os.kill(int(place.read_text()), 0)


def test_a_name_must_be_one_of_a_folder() -> None:
    with pytest.raises(ValueError, match="no name of a folder"):
        Run("../a", "f", {})
