"""Read yaml without running code from it, with the tags that configs of Detectron2 have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from ws_det.arithmetic import evaluate_numbers
from ws_det.errors import InputError

PYTHON = "tag:yaml.org,2002:python/"
_WAY_OUT = "write what it stands for, or give a config in Python that you trust"


class SafeLoader(yaml.SafeLoader):
    """Yaml's own safe loader, with tuples, and with lists of numbers that are worked out."""

    def construct_numbers(self, node: yaml.Node) -> Any:
        """``!!python/object/apply:eval ["[x * 2 for x in [32, 64]]"]``, which is not run.

        Raises:
            InputError: If it is more than numbers.
        """
        try:
            (text,) = self.construct_sequence(node)
            return evaluate_numbers(text)
        except (AttributeError, TypeError, ValueError) as error:
            raise refusal(node, f"is more than numbers ({error})") from None

    def refuse(self, node: yaml.Node) -> None:
        """Any other tag.

        Raises:
            InputError: Always.
        """
        raise refusal(node, "may run code, which a yaml may not")


SafeLoader.add_constructor(
    f"{PYTHON}tuple", lambda loader, node: tuple(loader.construct_sequence(node, deep=True))
)
SafeLoader.add_constructor(f"{PYTHON}object/apply:eval", SafeLoader.construct_numbers)
SafeLoader.add_constructor(None, SafeLoader.refuse)


def read_yaml(path: str | Path, loader: type[SafeLoader] = SafeLoader) -> Any:
    """Read a yaml file.

    Raises:
        InputError: If it has a tag that the loader does not know.
        yaml.YAMLError: If it is no yaml.
    """
    with Path(path).open(encoding="utf-8") as file:
        return yaml.load(file, loader)


def refusal(node: yaml.Node, reason: str) -> InputError:
    """What to raise for a tag: it is named with its file and line."""
    tag = node.tag.replace("tag:yaml.org,2002:", "!!")
    mark = node.start_mark
    return InputError(f"the tag {tag} in {mark.name}, line {mark.line + 1}, {reason}: {_WAY_OUT}")
