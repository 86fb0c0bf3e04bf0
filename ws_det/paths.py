"""Where the supplied configs are, in a checkout and in an installed wheel."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path

from ws_det.errors import InputError

_PACKAGE = Path(__file__).resolve().parent


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
