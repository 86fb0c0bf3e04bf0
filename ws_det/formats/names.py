"""Rename modules by pairs of templates, in either direction.

A template is a dotted module path with numbers in braces, ``layer{s}.{b}.conv{n}``. The other of a
pair may shift or stretch them, ``res{s+1}``, ``cls_subnet.{i*3+1}``. ``{norm}`` stands for what
MMDetection calls a norm of its kind.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

Pair = tuple[str, str]

# A key ends in one of these: what convolutions, linear layers and norms store.
_LEAVES = (
    "weight|bias|weight_gamma|weight_beta|running_mean|running_var|num_batches_tracked|"
    "estbn_moving_speed"
)
_KEY = re.compile(rf"(.+)\.({_LEAVES})")
_PLACE = re.compile(r"\{(\w+)(?:\*(\d+))?([+-]\d+)?\}")
_NORMS = "(?:gn|bn|bcn|estbn)"


def split(key: str) -> tuple[str, str]:
    """The module path and the name below it, which is empty for any other key."""
    match = _KEY.fullmatch(key)
    return (match[1], match[2]) if match else (key, "")


class Renamer:
    """Renames module paths that fit the first template of a pair by the second.

    Args:
        pairs: Of templates; the first that fits counts.
    """

    def __init__(self, pairs: Iterable[Pair]) -> None:
        self._rules = [(*_compile(source), target) for source, target in pairs]

    def __call__(self, module: str, norm: str = "") -> str | None:
        """The new name, None if no pair has one; ``{norm}`` becomes ``norm``."""
        for pattern, places, target in self._rules:
            match = pattern.fullmatch(module)
            values = match and _values(match.groups(), places)
            if values is not None:
                return _fill(target, values, norm)
        return None


def _compile(template: str) -> tuple[re.Pattern[str], list[tuple[str, int, int]]]:
    pattern, places, end = "", [], 0
    for place in _PLACE.finditer(template):
        pattern += re.escape(template[end : place.start()])
        end = place.end()
        if place[1] == "norm":
            pattern += _NORMS
        else:
            pattern += r"(0|[1-9]\d{0,3})"
            places.append(_numbers(place))
    return re.compile(pattern + re.escape(template[end:])), places


def _numbers(place: re.Match[str]) -> tuple[str, int, int]:
    return place[1], int(place[2] or 1), int(place[3] or 0)


def _values(found: Iterable[str], places: list[tuple[str, int, int]]) -> dict[str, int] | None:
    """The numbers behind those found in a path, None if one of them cannot be."""
    values = {}
    for digits, (name, factor, shift) in zip(found, places, strict=True):
        values[name], rest = divmod(int(digits) - shift, factor)
        if rest or values[name] < 0:
            return None
    return values


def _fill(template: str, values: dict[str, int], norm: str) -> str:
    def text(place: re.Match[str]) -> str:
        name, factor, shift = _numbers(place)
        return norm if name == "norm" else str(values[name] * factor + shift)

    return _PLACE.sub(text, template)
