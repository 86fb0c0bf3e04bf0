"""Walk through a config."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


def dicts_of(node: Any) -> Iterator[Any]:
    """Every dict inside a config's dicts, lists and tuples, the outermost first."""
    if isinstance(node, dict):
        yield node
        node = node.values()
    elif not isinstance(node, (list, tuple)):
        return
    for child in node:
        yield from dicts_of(child)


def with_file(node: Any) -> list[Any]:
    """Those that read an annotation file, in an order that is the same for a copy of the node."""
    return [found for found in dicts_of(node) if "ann_file" in found]
