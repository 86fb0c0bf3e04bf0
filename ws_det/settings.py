"""Compare and search the settings of configs, of whatever framework."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any


def changed_settings(
    own: Any, used: Any, path: str, item: str = ".{}"
) -> Iterator[tuple[str, Any]]:
    """What options and a data root have changed in a config.

    Args:
        own: A node of the config as its file has it.
        used: The same node as it was used.
        path: Of the node.
        item: How the path of a list's item goes on.

    Yields:
        Path and new value of each setting.
    """
    if isinstance(own, Mapping) and isinstance(used, Mapping) and own.keys() <= used.keys():
        for key in used:
            if key in own:
                yield from changed_settings(own[key], used[key], f"{path}.{key}", item)
            else:
                yield f"{path}.{key}", used[key]
    elif _is_list(own) and _is_list(used) and len(own) == len(used):
        for index, pair in enumerate(zip(own, used)):
            yield from changed_settings(*pair, path + item.format(index), item)
    elif own != used and (used is None or isinstance(used, (Mapping, Sequence, int, float))):
        yield path, used  # functions come from the file alone, and are not equal when read twice


def settings_with(node: Any, value: Any, path: str = "") -> Iterator[str]:
    """The settings that have a value, as those that a variable of a config was written to.

    Args:
        node: A node of the config.
        value: To look for. Of one that says little, as 1 or True, none is found.
        path: Of the node.

    Yields:
        The path of each.
    """
    if value is None or isinstance(value, bool) or value in (0, 1, "", (), [], {}):
        return
    if type(node) is type(value) and node == value:
        yield path
    elif isinstance(node, Mapping) or _is_list(node):
        pairs = node.items() if isinstance(node, Mapping) else enumerate(node)
        for key, child in pairs:
            yield from settings_with(child, value, f"{path}.{key}".lstrip("."))


def no_setting(option: str, variable: str, settings: Sequence[str]) -> str:
    """The sentence that refuses an option for a variable of a config.

    Args:
        option: As it was given.
        variable: The name at the top of the config.
        settings: What has the variable's value.
    """
    named = sorted(settings, key=lambda setting: not setting.endswith(f".{variable}"))
    more = f" and {len(named) - 6} more" if len(named) > 6 else ""
    instead = f"change {', '.join(named[:6])}{more}" if named else "change what was made of it"
    return (
        f"{option}: {variable!r} is a variable of the config's file, no setting, and nothing reads "
        f"it any more: {instead}"
    )


def _is_list(node: Any) -> bool:
    return isinstance(node, Sequence) and not isinstance(node, str)
