"""Refuse weights of another model, or of a backbone trained with other norms.

The checks load what fits into the module they are given: so its own hooks rename old keys.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from ws_det.checkpoint import below
from ws_det.errors import InputError, first_line, warn
from ws_det.family import is_dense, norm_family, norm_of
from ws_det.layers import WeightStandardized

# Shares of the elements that must be found. What a backbone adds to a pretrained network (norms,
# deformable offsets, context blocks) is small, half of R101 is missing from R50. A detector may
# start from another one whose heads differ.
_LEAST_OF_BACKBONE = 0.75
_LEAST_OF_MODEL = 0.5

_checked = 0


@contextmanager
def checked() -> Iterator[None]:
    """What is loaded inside was checked here: a model need not say again what it thinks of it."""
    global _checked
    _checked += 1
    try:
        yield
    finally:
        _checked -= 1


def is_checked() -> bool:
    """Whether ``checked`` is at work."""
    return _checked > 0


def check_whole(
    model: nn.Module, state: dict[str, Any], path: str, remedy: str, *, force: bool = False
) -> None:
    """Check that weights are those of exactly this model, for testing or resuming.

    Args:
        model: The built model.
        state: Its weights.
        path: Where they are from, for the message.
        remedy: What the user can do about a WS backbone's weights trained without, the end of
            that message.
        force: Only warn of a backbone trained in another way.

    Raises:
        InputError: If they are of another model, the backbone was trained with another family of
            norms, or there is NaN in them.
    """
    _check_own_backbone(model, state, path, remedy, force)
    _check_numbers(model, state, path, force)
    missing, unexpected, misshaped = _compare(model, state, path)
    if missing or unexpected or misshaped:
        raise InputError(
            f"{path} is a checkpoint of another model than the config's "
            f"({_differences(missing, unexpected, misshaped)}): give the config it was trained with"
        )


def check_start(
    model: nn.Module, state: dict[str, Any], path: str, remedy: str, *, force: bool = False
) -> None:
    """Check that weights can start the training of a model; new heads may differ.

    Args:
        model: The built model.
        state: The weights.
        path: As in ``check_whole``.
        remedy: As in ``check_whole``.
        force: As in ``check_whole``.

    Raises:
        InputError: As ``check_whole``, but only if less than half of the elements are found.
    """
    _check_own_backbone(model, state, path, remedy, force)
    _check_numbers(model, state, path, force)
    _check_coverage(model, state, path, _LEAST_OF_MODEL)


def check_backbone(
    backbone: nn.Module, state: dict[str, Any], path: str, remedy: str, *, force: bool = False
) -> None:
    """Check pretrained weights for a backbone.

    Args:
        backbone: The built backbone.
        state: The weights, with the backbone's own keys.
        path: As in ``check_whole``.
        remedy: As in ``check_whole``.
        force: As in ``check_whole``.

    Raises:
        InputError: If they were trained with another family of norms, or less than three quarters
            of the backbone's elements are in them.
    """
    if _has_kernels(backbone, state):
        check_family(backbone, state, path, remedy, force=force)
    _check_numbers(backbone, state, path, force)
    _check_coverage(backbone, state, path, _LEAST_OF_BACKBONE)


def check_family(
    backbone: nn.Module, state: dict[str, Any], path: str, remedy: str, *, force: bool = False
) -> None:
    """Check that weights for a backbone were trained with its norms, and with WS if it uses WS.

    Args:
        backbone: The built backbone.
        state: The weights, under any names.
        path: As in ``check_whole``.
        remedy: As in ``check_whole``.
        force: As in ``check_whole``.

    Raises:
        InputError: If they were not. Where nothing tells, nothing is said.
    """
    convs = [m for m in backbone.modules() if isinstance(m, WeightStandardized)]
    # An adaptive kernel takes over the mean and deviation of plain weights; one that is only
    # scaled trains its mean as plain ones do.
    standardized = any(m.center and not m.adaptive for m in convs)
    family, own = norm_family(state), norm_of(backbone.state_dict())
    names = {"bn": "BN", "bcn": "BCN", "gn": "GN", "": "no norm"}
    ends_badly = f"but the config's backbone uses WS, and trains badly from them: {remedy}"
    fault = None
    if standardized and family.folded:
        raise InputError(f"the backbone weights in {path} are folded from WS weights, {ends_badly}")
    if standardized and family.norm == "bn" and own != "bn":
        fault = f"are BN weights, {ends_badly}"
    elif standardized and family.ws is False:
        fault = f"are trained with {names[family.norm]} without WS weights, {ends_badly}"
    elif not convs and family.ws and not family.folded:
        fault = (
            "are raw kernels of WS, but the config's backbone has plain convolutions, in which "
            "they compute something else: use WS in the config, or fold them with "
            "tools/fold_checkpoint.py"
        )
    elif not convs and family.norm and own and family.norm != own:
        fault = (
            f"were trained with {names[family.norm]}, but the config's backbone has {names[own]}: "
            f"give weights trained with {names[own]}"
        )
    if fault and not force:
        raise InputError(f"the backbone weights in {path} {fault}, or go on with --force")
    if fault:
        warn(f"the backbone weights in {path} {fault}")


def _check_own_backbone(
    model: nn.Module, state: dict[str, Any], path: str, remedy: str, force: bool
) -> None:
    backbone = getattr(model, "backbone", None)
    inside = below(state, "backbone.")
    if backbone is not None and _has_kernels(backbone, inside):
        check_family(backbone, inside, path, remedy, force=force)


def _has_kernels(backbone: nn.Module, state: dict[str, Any]) -> bool:
    """Whether the kernels are a backbone's, whatever norms are between; else it is another network.

    About that there is a sentence of its own.
    """
    kernels = {key: value for key, value in backbone.state_dict().items() if value.ndim == 4}
    found = sum(own.numel() for key, own in kernels.items() if _fits(state.get(key), own))
    return found >= _LEAST_OF_BACKBONE * sum(own.numel() for own in kernels.values())


def _check_coverage(module: nn.Module, state: dict[str, Any], path: str, least: float) -> None:
    missing, unexpected, misshaped = _compare(module, state, path)
    sizes = {key: tensor.numel() for key, tensor in module.state_dict().items()}
    found = 1 - sum(sizes[key] for key in (*missing, *misshaped)) / sum(sizes.values())
    if found < least:
        raise InputError(
            f"{path} has weights of another model, {found:.0%} of {type(module).__name__} is in it "
            f"({_differences(missing, unexpected, misshaped)}): give weights of the same network"
        )


def _compare(
    module: nn.Module, state: dict[str, Any], path: str
) -> tuple[list[str], list[str], list[str]]:
    """Missing, unexpected and misshaped keys, after the modules' own hooks renamed old keys."""
    own = module.state_dict()
    misshaped = [k for k in own if k in state and not _fits(state[k], own[k])]
    fitting = OrderedDict((k, v) for k, v in state.items() if k not in misshaped)
    fitting._metadata = getattr(state, "_metadata", {})  # those hooks read versions in it
    try:
        with checked():
            missing, unexpected = module.load_state_dict(fitting, strict=False)
    except RuntimeError as error:  # its first line has no reason; a folded kernel is one
        reason = (str(error).splitlines()[1:] or [first_line(error)])[0].strip()
        raise InputError(f"{path} cannot be loaded: {reason}") from None
    missing = [k for k in missing if k not in misshaped and "num_batches_tracked" not in k]
    return missing, list(unexpected), misshaped


def _fits(value: Any, own: Tensor) -> bool:
    return (
        isinstance(value, Tensor)
        and not value.is_nested
        and value.shape == own.shape
        and value.layout is own.layout
        and value.device.type != "meta"
        and value.is_floating_point() == own.is_floating_point()
        and value.is_complex() == own.is_complex()
    )


def _check_numbers(module: nn.Module, state: dict[str, Any], path: str, force: bool) -> None:
    bad = [k for k in module.state_dict() if k in state and _has_nan(state[k])]
    if not bad:
        return
    fault = f"{path} has NaN in {len(bad)} weights, as {bad[0]}, so it is of a run that diverged"
    if not force:
        raise InputError(f"{fault}: give an earlier checkpoint, or go on with --force")
    warn(fault)


def _has_nan(value: Any) -> bool:
    # a sum is NaN if an element is, and makes no copy; float8 has no sum
    return is_dense(value) and value.is_floating_point() and bool(value.float().sum().isnan())


def _differences(
    missing: Sequence[str], unexpected: Sequence[str], misshaped: Sequence[str]
) -> str:
    kinds = {"missing": missing, "unexpected": unexpected, "of another shape": misshaped}
    return ", ".join(
        f"{len(keys)} {kind}" + (f", as {' '.join(key[:80] for key in keys[:3])}" if keys else "")
        for kind, keys in kinds.items()
    )
