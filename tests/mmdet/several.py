"""Train several times in the same processes, which start slowly: [[port, arguments], ...]."""

from __future__ import annotations

import json
import os
import sys

from tools import train

os.environ["TORCHELASTIC_USE_AGENT_STORE"] = "False"  # it takes one process group, not several
for port, arguments in json.loads(sys.argv[1]):
    os.environ["MASTER_PORT"] = str(port)
    train.main(arguments)
