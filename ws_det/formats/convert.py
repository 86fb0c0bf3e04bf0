"""Convert a state dict from one format to another."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ws_det.errors import InputError
from ws_det.family import is_dense, norm_family
from ws_det.formats import layout
from ws_det.formats.names import Renamer, split
from ws_det.formats.notes import notes_on
from ws_det.formats.recognize import FORMATS, recognize
from ws_det.formats.spec import Format, State


@dataclass
class Converted:
    """A state dict in another format.

    Args:
        state: With the metadata of the modules, so that folded weights stay marked.
        source: The format that it was in.
        unmatched: Keys of the source that the other format has no place for.
        needless: Keys that were left out because nothing misses them there: a classifier, and
            what is computed from a config.
        notes: What the user has to set, or to know, for the same results.
    """

    state: State
    source: Format
    unmatched: list[str]
    needless: list[str]
    notes: list[str]


@dataclass
class _Canonical:
    """A state dict with canonical names, and the keys that each of its tensors came by."""

    state: State
    detector: bool
    metadata: dict[str, Any]
    origin: dict[str, str]
    unmatched: list[str] = field(default_factory=list)
    needless: list[str] = field(default_factory=list)


def convert_state(state: Mapping[str, Any], to: str, source: Format | None = None) -> Converted:
    """Convert a state dict; tensors that mean the same in both are shared, not copied.

    Args:
        state: Tensors by name, without the ``module.`` of DDP.
        to: Name of the format to bring it to, a key of ``FORMATS``.
        source: The format that it is in; recognized if not given.

    Returns:
        The new state dict, and what did not come along.

    Raises:
        InputError: If its format is unknown, is ``to`` already, or has no counterpart there, or
            its predictors cannot be brought into the other order.
    """
    source = source or recognize(state)
    if source is None and "conv1_w" in state:
        raise InputError(
            "these are names of Caffe2, which Detectron2 alone matches to its own: load them "
            "there, save a checkpoint, and convert that one"
        )
    if source is None:
        first = ", ".join(list(state)[:3]) or "none"
        raise InputError(
            f"the keys ({first}, ...) are of no known format: those of ResNets and of detectors "
            f"with FPN are, in MMDetection, Detectron2, torchvision, timm, and the WS authors'"
        )
    target = FORMATS[to]
    if source is target:
        raise InputError(f"this is a checkpoint of {source.title} already: use it as it is")
    canonical = _read(state, source)
    pre_activation = any(key.startswith("v2.") for key in canonical.state)
    if pre_activation and target.name not in ("timm", "bit"):
        raise InputError(
            f"this is a pre-activation ResNet ({source.title}), which {target.title} does not "
            f"have: convert it to timm"
        )
    if target.name == "bit" and not pre_activation:
        raise InputError("BiT has pre-activation ResNets alone: convert to another format")
    # before the tensors are changed to those of the target
    family = norm_family(state)
    notes = notes_on(canonical.state, source, target, canonical.detector, family)
    converted = _write(canonical, target)
    return Converted(converted, source, canonical.unmatched, canonical.needless, notes)


def _read(state: Mapping[str, Any], source: Format) -> _Canonical:
    keys = {key: source.to_key(key) for key in state}
    own = source.survey({split(key)[0] for key in keys.values()})
    rename = Renamer((theirs, ours) for ours, theirs in source.pairs(own))
    metadata = getattr(state, "_metadata", {})
    result = _Canonical(
        OrderedDict(),
        own.detector,
        {name: entry for module, entry in metadata.items() if (name := rename(module))},
        {},
    )
    for key, dotted in keys.items():
        if source.needless.fullmatch(key):
            result.needless.append(key)
            continue
        module, leaf = split(dotted)
        name = rename(module) if leaf else None
        tensor = state[key]
        if name is None or not _fits(name, leaf, tensor):
            result.unmatched.append(key)
            continue
        canonical = f"{name}.{leaf}"
        if canonical in result.state:
            raise InputError(
                f"{key} and {result.origin[canonical]} are the same weight under two names: remove "
                f"one of them"
            )
        result.state[canonical], result.origin[canonical] = tensor, key
    before = set(result.state)
    result.state = source.to_canonical(result.state)
    result.needless += [result.origin[key] for key in before - set(result.state)]
    return result


def _fits(name: str, leaf: str, tensor: Any) -> bool:
    """Whether a tensor can be what its name says."""
    if not is_dense(tensor):
        return False
    if leaf == "num_batches_tracked":
        return tensor.ndim == 0
    if leaf != "weight" and not layout.is_norm(name.removesuffix(".bn")):
        return leaf.startswith("weight_") or tensor.ndim == 1
    if layout.is_norm(name):  # in a BCN of (1, G, 1)
        return tensor.ndim in (1, 3)
    if name.endswith(".bn"):
        return tensor.ndim == 1
    linear = name == "classifier" or re.search(r"\.(fcs\.\d+|cls|reg|head)$", name)
    return tensor.ndim == 4 or bool(linear and tensor.ndim == 2)


def _write(canonical: _Canonical, target: Format) -> State:
    modules = {key.rpartition(".")[0] for key in canonical.state}
    rename = Renamer(target.pairs(layout.survey(modules, canonical.detector)))
    kinds = _norm_kinds(canonical.state)

    def own_name(module: str) -> str | None:
        return rename(module, kinds.get(module.removesuffix(".bn"), ""))

    names = {module: own_name(module) for module in modules}
    for module in modules:
        # without the norm behind it a convolution computes something else
        if layout.is_norm(module) and names[module] is None:
            names[layout.convolution_of(module)] = None
    kept = OrderedDict()
    for key, tensor in canonical.state.items():
        module, _, leaf = key.rpartition(".")
        if names[module] is not None and _has_place(module, leaf, modules, target):
            kept[key] = tensor
        elif module == "classifier":
            canonical.needless.append(canonical.origin[key])
        else:
            canonical.unmatched.append(canonical.origin[key])
    result = OrderedDict()
    for key, tensor in target.from_canonical(kept).items():
        module, _, leaf = key.rpartition(".")
        result[target.from_key(f"{target.prefix}{names[module]}.{leaf}", tensor)] = tensor
    result._metadata = OrderedDict(
        (f"{target.prefix}{name}", entry)
        for module, entry in canonical.metadata.items()
        if (name := own_name(module))
    )
    return result


def _has_place(module: str, leaf: str, modules: Iterable[str], target: Format) -> bool:
    """No format but one has a bias before a norm, and that one in RetinaNet's head alone."""
    norm = layout.norm_of(module)
    if leaf != "bias" or norm == module or norm not in modules:
        return True
    return target.retina_bias and module.startswith("retina.")


def _norm_kinds(state: Iterable[str]) -> dict[str, str]:
    """What MMDetection calls each norm, by its canonical name.

    A norm with running statistics is a BN or an EstBN, which store the same; it is called bn.
    """
    keys = set(state)
    norms = {key.rpartition(".")[0].removesuffix(".bn") for key in keys}
    return {
        norm: "bcn"
        if f"{norm}.bn.weight" in keys
        else "bn"
        if f"{norm}.running_mean" in keys
        else "gn"
        for norm in norms
    }
