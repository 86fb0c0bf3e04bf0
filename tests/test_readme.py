"""The README and the tree say the same. Oracles: the tree, and MMDetection's own metafiles."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[1]
README = (REPO / "README.md").read_text()
CONFIGS = {path.stem for path in REPO.glob("configs/*/*.py")}
# a yaml config beside a LazyConfig of the same name is the same, and has no row of its own
YAML = {path.name for path in REPO.glob("configs/*/[!B]*.yaml") if path.stem not in CONFIGS}
# config -> what its row has in the column "published AP"
ROWS = dict(re.findall(r"^\| `(\S+)`[^|]*\| ([^|]+?) \|", README, re.MULTILINE))


def test_every_config_named_exists() -> None:
    named = set(re.findall(r"[\w.]+-[\w.-]+_coco\b", README))
    assert len(named) > 10 and named <= CONFIGS


def test_every_config_is_in_the_table() -> None:
    assert set(ROWS) == {name for name in CONFIGS if "demo" not in name} | YAML


def test_published_aps_are_those_of_mmdetection() -> None:
    mmdet = pytest.importorskip("mmdet")
    yaml = pytest.importorskip("yaml")
    published = {}
    for folder in ("gn+ws", "gn"):
        metafile = Path(mmdet.__file__).parent / ".mim/configs" / folder / "metafile.yml"
        for model in yaml.safe_load(metafile.read_text())["Models"]:
            metrics = [result["Metrics"] for result in model["Results"]]
            aps = [metric.get("box AP", metric.get("mask AP")) for metric in metrics]
            published[Path(model["Config"]).stem] = " / ".join(f"{ap:.1f}" for ap in aps)
    for name, ap in ROWS.items():
        assert ap.startswith("-") if name not in published else ap == published[name], name


def test_the_map_names_what_exists() -> None:
    block = README.split("## Map of this tree")[1].split("```")[1]
    paths = re.findall(r"(?:ws_det|configs|tools|tests)/[\w./]*", block)
    assert len(paths) > 8
    for path in paths:
        assert (REPO / path).exists(), path


def test_make_targets_exist() -> None:
    targets = set(re.findall(r"^([\w-]+):", (REPO / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"(?:`|^)make ([\w-]+)", README, re.MULTILINE))
    assert named and named <= targets
