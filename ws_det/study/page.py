"""docs/evidence.md, made of the JSON that the studies leave in docs/evidence/."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from ws_det.markdown import table
from ws_det.study.verdicts import CONTRADICTED, NOT_SHOWN, SHOWN

NAMES = ("detection", "classification", "ablation", "singularities", "smoothness", "estbn")


def module_of(name: str) -> ModuleType:
    """A study: ``TITLE``, ``plan``, ``summarize``, ``section`` and ``draw``."""
    return import_module(f"ws_det.study.{name}")


def page(folder: Path) -> str:
    """The page.

    Args:
        folder: ``evidence/`` beside the page: ``<study>.json`` as ``tools/study.py`` writes it.
    """
    content: dict[str, dict[str, Any]] = {}
    for name in NAMES:
        path = folder / f"{name}.json"
        if path.is_file():
            content[name] = json.loads(path.read_text())
    claims = [
        [v["claim"], f"**{v['verdict']}**" if v["verdict"] == SHOWN else v["verdict"], v["figures"]]
        for study in content.values()
        for v in study["summary"]["verdicts"]
    ]
    parts = [_HEAD, table(["claim", "verdict", "figures"], claims)]
    for name, study in content.items():
        module, machine = module_of(name), study["machine"]
        parts += [
            f"## {module.TITLE}",
            f"`python tools/study.py {name}`: {study['runs']} runs, {study['seconds'] / 60:.0f} "
            f"minutes of one thread in all, on {machine['device']}, torch {machine['torch']}. "
            f"Numbers: [{name}.json](evidence/{name}.json).",
            module.section(study["summary"]),
            f"![{module.TITLE}](evidence/{name}.png)",
        ]
    return "\n\n".join(parts) + "\n"


_HEAD = f"""\
# The evidence

Does WS, does BCN work at my batch size, and why? These are runs of this project, small enough for
two cores and minutes, so they show directions and not COCO's numbers; those are in the README, with
their sources. `tools/study.py` made this page from the JSON files beside it. It keeps the config,
the seed and the log of every run, and runs nothing twice: stopped, it goes on where it was.

The learning rate of every arm comes from the same small search, shown in each section; nothing is
tuned for one arm only. A claim is *{SHOWN}* if every seed of the one arm is above every seed of the
other, *{CONTRADICTED}* if every one is below, else *{NOT_SHOWN}*. With three seeds an arm, chance
alone gives a *{SHOWN}* in one case of 20, with two seeds in one of 6. Nothing corrects for the
number of claims: of as many as here, one or two may be there by chance."""
