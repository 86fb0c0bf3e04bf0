#!/usr/bin/env bash
# Usage: tools/setup_env.sh VENV [DETECTRON2]  (from the repository root, or through `make setup`)
#
# Puts torch, MMDetection with compiled operators, and ws_det in editable form into VENV, and with
# DETECTRON2, a checkout or a git URL, Detectron2 as well. Every step asks first whether its result
# already works, so an interrupted run is simply started again.
set -euo pipefail

venv=${1:?usage: tools/setup_env.sh VENV [DETECTRON2]}
detectron2=${2:-}
python=$venv/bin/python
stamp=$venv/.ws_det_setup

# A change of what is to be installed, of the checkout or of the interpreter asks for a new look.
fingerprint() {
    { cat pyproject.toml tools/setup_env.sh; pwd; echo "$detectron2"; readlink -f "$python"; } | cksum
}
say() { echo "setup: $*"; }
works() { "$python" -c "$1" >/dev/null 2>&1; }
pip() { "$python" -m pip --disable-pip-version-check install "$@"; }

steps=4
torch=(torch==2.13.0)
torch_works='import torch; torch.ones(1)' # a half-copied package imports, but empty
operators_work='import torch, mmcv._ext; from mmcv.ops import nms'
if [ -n "$detectron2" ]; then
    if [ -d "$detectron2" ]; then
        detectron2=$(cd "$detectron2" && pwd)
    elif [[ $detectron2 != *://* ]]; then
        say "error: $detectron2 is no folder: give a checkout of Detectron2 or a git URL" >&2
        exit 2
    fi
    steps=5
    # Two equals signs may take a build for CPUs, and torchvision has none to go with it; the builds
    # that three equals signs name exactly run on a CPU too.
    torch=(torch===2.13.0 torchvision==0.28.0)
    torch_works+='; from torchvision.ops import nms; nms(torch.ones(1, 4), torch.ones(1), 0.5)'
    detectron2_works="$torch_works; import detectron2._C, detectron2.model_zoo"
fi

if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$(fingerprint)" ]; then
    exit 0
fi
rm -f "$stamp"

if ! works 'import pip'; then
    say "1/$steps virtual environment in $venv (seconds)"
    "${PYTHON:-python3}" -m venv "$venv"
fi
say "2/$steps torch and what compiling needs (a download of minutes, unless it is there)"
works "$torch_works" || pip "${torch[@]}"
pip --quiet 'setuptools>=80,<81' ninja wheel

# Without build isolation, for the build must see torch; without pip's cache, which may hold a
# build without operators or beside another torch.
build=(--no-build-isolation --no-cache-dir)
export MMCV_WITH_OPS=1
if ! works "$operators_work"; then
    say "3/$steps mmcv: unless a built wheel is found, its operators are compiled now, which takes about"
    say "    13 minutes on 2 cores and prints little; interrupt and run again at will"
    pip "${build[@]}" onedl-mmcv==2.3.6
fi
if ! works "$operators_work"; then
    say "3/$steps the mmcv found has no operators for this torch: compiling them"
    pip --force-reinstall --no-deps --no-binary onedl-mmcv "${build[@]}" onedl-mmcv==2.3.6
fi

say "4/$steps MMDetection, the tools and ws_det itself (a minute or two)"
pip --quiet -e '.[mmdet,eval,export,study,dev]'

if ! "$python" -c "$operators_work"; then
    say "error: mmcv's operators (mmcv._ext) do not import, see above: compiling them needs a C++" >&2
    say "compiler, and beside a CUDA torch on a GPU machine the CUDA toolkit of the same version" >&2
    exit 1
fi

if [ -n "$detectron2" ]; then
    if ! works "$detectron2_works"; then
        say "5/$steps Detectron2: its operators are compiled now, about 3 minutes on 2 cores"
        pip "${build[@]}" "$detectron2"
        works "$detectron2_works" || pip --force-reinstall --no-deps "${build[@]}" "$detectron2"
    fi
    if ! "$python" -W ignore -c "$detectron2_works"; then
        say "error: the operators of torchvision or of Detectron2 (detectron2._C) do not import, see" >&2
        say "above: compiling needs a C++ compiler, and a stale build/ in the checkout must go" >&2
        exit 1
    fi
fi
fingerprint >"$stamp"
say "done: the operators import; activate with: source $venv/bin/activate"
