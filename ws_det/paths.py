"""Where the supplied configs are, in a checkout and in an installed wheel."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path

from ws_det.errors import InputError

_PACKAGE = Path(__file__).resolve().parent


def config_path(name: str) -> str:
    """Find a supplied config by name; MMEngine cannot resolve ``ws_det::`` as a base.

    Args:
        name: A config's file name, with or without ``.py``.

    Returns:
        The absolute path of the config.

    Raises:
        InputError: No supplied config has that name.
    """
    # A wheel carries the configs inside the package, a checkout keeps them beside it.
    root = next(p for p in (_PACKAGE / "configs", _PACKAGE.parent / "configs") if p.is_dir())
    configs = {path.stem: path for path in sorted(root.glob("[!_]*/*.py"))}
    stem = name.removesuffix(".py")
    if stem in configs:
        return str(configs[stem])
    near = get_close_matches(stem, configs, n=3, cutoff=0.3) or configs
    raise InputError(f"no supplied config is called {name!r}; did you mean {', '.join(near)}?")
