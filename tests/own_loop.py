"""The code of docs/own_loop.md, by the comment that it begins with."""

from __future__ import annotations

import re
from pathlib import Path

DOC = (Path(__file__).resolve().parents[1] / "docs/own_loop.md").read_text()
BLOCKS = dict(re.findall(r"```python\n# (.+?)\n(.*?)```", DOC, re.DOTALL))
