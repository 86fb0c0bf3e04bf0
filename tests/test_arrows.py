"""The import arrows: functional <- layers <- convert <- adapters <- tools, and a lean core.

Oracle: the source, read with ast, and a fresh interpreter's sys.modules.
"""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[1]
# What stands beside convert (checkpoint, shapes, ...) may import its like and all below it.
RANKS = {
    **{"errors": 0, "compiling": 0, "functional": 1, "recomputed": 1, "drift": 1},
    **{"plain": 1, "fuse": 2, "moments": 2, "normalization": 3, "fused_bcn": 3},
    **{"layers": 4, "norms": 4, "convert": 5},
}
BESIDE, ADAPTER = 6, 7
ADAPTERS = {"mmdet": {"mmengine", "mmcv", "mmdet"}, "detectron2": {"detectron2", "fvcore"}}
FRAMEWORKS = set().union(*ADAPTERS.values())


def imported(path: Path, package: list[str]) -> Iterator[str]:
    """Every dotted name that a file imports, anywhere in it; ``from a import b`` gives a.b."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            parts = [*base, *([node.module] if node.module else [])]
            yield from (".".join([*parts, alias.name]) for alias in node.names)


def rank(module: str) -> int:
    return ADAPTER if module in ADAPTERS else RANKS.get(module, BESIDE)


def wrong(module: str, name: str) -> bool:
    """Whether ``ws_det.<module>`` (an adapter counts as one module) may not import ``name``."""
    root, _, rest = name.partition(".")
    if root in FRAMEWORKS:
        # probes.py tries each package that there may be, in a process of its own
        return module != "probes" and root not in ADAPTERS.get(module, ())
    if root == "tools":
        return True
    target = rest.partition(".")[0]
    if root != "ws_det" or target == module:
        return False
    same_floor = rank(module) == rank(target) == BESIDE
    return target == "tools" or not (rank(target) < rank(module) or same_floor)


def violations(root: Path) -> list[str]:
    found = []
    for path in sorted((root / "ws_det").rglob("*.py")):
        parts = path.relative_to(root / "ws_det").with_suffix("").parts
        package = ["ws_det", *parts[:-1]]
        for name in imported(path, package):
            if wrong(parts[0], name):
                found.append(f"{path.relative_to(root)} imports {name}")
    return found


def test_arrows() -> None:
    assert violations(REPO) == []


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("functional.py", "import ws_det.layers"),
        ("layers.py", "from ws_det import convert"),
        ("layers.py", "from . import convert"),
        ("convert.py", "from ws_det.mmdet import hooks"),
        ("convert.py", "from ws_det.fold import fold_ws"),
        ("checkpoint.py", "def late():\n    import mmengine.config"),
        ("__init__.py", "from ws_det.mmdet import registry"),
        ("mmdet/hooks.py", "import detectron2.layers"),
        ("mmdet/hooks.py", "from ..tools import train"),
        ("mmdet/hooks.py", "from ws_det.tools import train"),
    ],
)
def test_a_wrong_arrow_is_found(tmp_path: Path, file: str, line: str) -> None:
    shutil.copytree(REPO / "ws_det", tmp_path / "ws_det")
    path = tmp_path / "ws_det" / file
    path.write_text(f"{path.read_text()}\n{line}\n")
    assert len(violations(tmp_path)) == 1


def loaded_beyond_torch(root: Path) -> set[str]:
    """What `import ws_det` brings into a fresh interpreter that torch has not brought."""
    code = (
        "import sys, torch; old = set(sys.modules); import ws_det;"
        "print(*{name.partition('.')[0] for name in set(sys.modules) - old})"
    )
    command = [sys.executable, "-c", code]
    run = subprocess.run(command, cwd=root, check=True, capture_output=True, text=True)
    return set(run.stdout.split()) - set(sys.stdlib_module_names) - {"torch"}


def test_importing_ws_det_loads_torch_alone() -> None:
    assert loaded_beyond_torch(REPO) == {"ws_det"}


def test_a_heavy_import_is_found(tmp_path: Path) -> None:
    shutil.copytree(REPO / "ws_det", tmp_path / "ws_det")
    with (tmp_path / "ws_det/__init__.py").open("a") as file:
        file.write("import pytest\n")
    assert "pytest" in loaded_beyond_torch(tmp_path)
