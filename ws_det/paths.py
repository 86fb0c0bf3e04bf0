"""Where configs are, in a checkout and in an installed wheel, and which framework's they are."""

from __future__ import annotations

import ast
import os.path as osp
import re
from argparse import ArgumentParser
from difflib import get_close_matches
from pathlib import Path

from ws_det.errors import InputError

CONFIG_HELP = (
    "path of a config, or the name of a supplied one; a config is a program: run only those that "
    "you trust"
)
_PACKAGE = Path(__file__).resolve().parent


def add_config_flags(parser: ArgumentParser) -> None:
    """Add the flags that a training may have had, for a tool that takes what was trained."""
    parser.add_argument("--data-root", help="folder of a COCO-format set; it names the classes")
    parser.add_argument(
        "--cfg-options",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=VALUE",
        help="change settings of the config",
    )


def config_path(name: str) -> str:
    """Find a supplied config by name; MMEngine cannot resolve ``ws_det::`` as a base.

    Args:
        name: A config's file name. Without its suffix it means the ``.py`` where a ``.yaml`` of
            the same name says the same.

    Returns:
        The absolute path of the config.

    Raises:
        InputError: No supplied config has that name.
    """
    # A wheel carries the configs inside the package, a checkout keeps them beside it.
    root = next(p for p in (_PACKAGE / "configs", _PACKAGE.parent / "configs") if p.is_dir())
    yamls = (path for path in root.glob("*/*.yaml") if not path.name.startswith("Base-"))
    configs = {}
    for path in (*sorted(yamls), *sorted(root.glob("*/*.py"))):
        configs[path.stem] = configs[path.name] = path
    if name in configs:
        return str(configs[name])
    stems = sorted({path.stem for path in configs.values()})
    near = get_close_matches(name, stems, n=3, cutoff=0.3) or stems
    raise InputError(f"no supplied config is called {name!r}; did you mean {', '.join(near)}?")


def find_config(name: str) -> str:
    """The path of a config file, or of a supplied config.

    Raises:
        InputError: If there is none.
    """
    path = name if osp.isfile(name) or osp.dirname(name) else config_path(name)
    if not osp.isfile(path):
        raise InputError(f"there is no config {path}: give a file, or a supplied config's name")
    return path


def framework_of(path: str) -> str:
    """Tell whose config a file is.

    MMEngine's have ``_base_`` or a ``model`` that is a plain dict; Detectron2's are a yaml with
    nodes in capitals, or build ``model`` of calls.

    Args:
        path: Of a config.

    Returns:
        ``"mmdet"`` or ``"detectron2"``, the name of the adapter.

    Raises:
        InputError: If it is no text, or no Python.
    """
    try:
        text = Path(path).read_text("utf-8")
    except (OSError, ValueError) as error:
        raise InputError(f"the config {path} is no text ({error}): give a config") from None
    if not path.endswith(".py"):
        plain = re.search(r"""^["']?(model|_base_)["']?:""", text.lstrip("{ \n"), re.MULTILINE)
        return "mmdet" if plain and "_target_" not in text else "detectron2"
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise InputError(f"the config {path} is no Python ({error}): correct it") from None
    roots, dicts = set(), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and not node.level:
            roots.add((node.module or "").partition(".")[0])
        elif isinstance(node, ast.Import):
            roots.update(alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.Assign):
            call = isinstance(node.value, ast.Call) and ast.unparse(node.value.func) == "dict"
            if call or isinstance(node.value, (ast.Dict, ast.List, ast.Constant)):
                dicts.update(ast.unparse(target) for target in node.targets)
    if roots & {"mmengine", "mmcv", "mmdet"} or dicts & {"_base_", "model", "default_scope"}:
        return "mmdet"
    return "detectron2"
