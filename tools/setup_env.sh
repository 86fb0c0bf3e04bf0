#!/usr/bin/env bash
# Usage: tools/setup_env.sh VENV  (run from the repository root, or through `make setup`)
#
# Puts torch, MMDetection with compiled operators, and ws_det in editable form into VENV. Every step
# asks first whether its result already works, so an interrupted run is simply started again.
set -euo pipefail

venv=${1:?usage: tools/setup_env.sh VENV}
python=$venv/bin/python
stamp=$venv/.ws_det_setup

# A change of what is to be installed, of the checkout or of the interpreter asks for a new look.
fingerprint() { { cat pyproject.toml tools/setup_env.sh; pwd; readlink -f "$python"; } | cksum; }
say() { echo "setup: $*"; }
works() { "$python" -c "$1" >/dev/null 2>&1; }
pip() { "$python" -m pip --disable-pip-version-check install "$@"; }

torch_works='import torch; torch.ones(1)' # a half-copied package imports, but empty
operators_work='import torch, mmcv._ext; from mmcv.ops import nms'

if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$(fingerprint)" ]; then
    exit 0
fi
rm -f "$stamp"

if ! works 'import pip'; then
    say "1/4 virtual environment in $venv (seconds)"
    "${PYTHON:-python3}" -m venv "$venv"
fi
say "2/4 torch and what compiling needs (a download of minutes, unless it is there)"
works "$torch_works" || pip torch==2.13.0
pip --quiet 'setuptools>=80,<81' ninja wheel

# Without build isolation, for the build must see torch; without pip's cache, which may hold a
# build without operators or beside another torch.
export MMCV_WITH_OPS=1
mmcv=(--no-build-isolation --no-cache-dir onedl-mmcv==2.3.6)
if ! works "$operators_work"; then
    say "3/4 mmcv: unless a built wheel is found, its operators are compiled now, which takes about"
    say "    13 minutes on 2 cores and prints little; interrupt and run again at will"
    pip "${mmcv[@]}"
fi
if ! works "$operators_work"; then
    say "3/4 the mmcv found has no operators for this torch: compiling them"
    pip --force-reinstall --no-deps --no-binary onedl-mmcv "${mmcv[@]}"
fi

say "4/4 MMDetection, the tools and ws_det itself (a minute or two)"
pip --quiet -e '.[mmdet,eval,dev]'

if ! "$python" -c "$operators_work"; then
    say "error: mmcv's operators (mmcv._ext) do not import, see above: compiling them needs a C++" >&2
    say "compiler, and beside a CUDA torch on a GPU machine the CUDA toolkit of the same version" >&2
    exit 1
fi
fingerprint >"$stamp"
say "done: mmcv's operators import; activate with: source $venv/bin/activate"
