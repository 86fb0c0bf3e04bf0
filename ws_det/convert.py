"""Turn a model into its WS form, in place, as torch's ``convert_sync_batchnorm`` does for BN.

Which convolution is followed by which norm is read from the module structure; an adapter teaches
this file the blocks of its framework with :func:`register_pairing`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import nn

from ws_det import functional, layers, norms
from ws_det.errors import InputError

#: Plain class -> WS class. An adapter adds the convolution classes of its framework.
WS_CLASSES: dict[type[nn.Module], type[nn.Module]] = {
    nn.Conv1d: layers.WSConv1d,
    nn.Conv2d: layers.WSConv2d,
    nn.Conv3d: layers.WSConv3d,
    nn.ConvTranspose2d: layers.WSConvTranspose2d,
}

#: Batch norms without parameters, which an adapter adds: to swap one is an error.
FROZEN_NORMS: set[type[nn.Module]] = set()

_BATCH_NORM = nn.modules.batchnorm._BatchNorm
_NORMS = (_BATCH_NORM, nn.modules.instancenorm._InstanceNorm, nn.GroupNorm)

FilterFn = Callable[[nn.Module, str], bool]
Pairing = Callable[[nn.Module], "dict[str, str] | None"]
_pairings: list[Pairing] = []

#: Called with what :func:`convert_to_ws` returns.
after_conversion: list[Callable[[nn.Module], None]] = []


class Change(NamedTuple):
    """What conversion does with one module.

    Attributes:
        name: Qualified name of the convolution or norm.
        module: It.
        action: "convert" (to a WS convolution), "swap" (the norm) or "skip".
        reason: Why.
    """

    name: str
    module: nn.Module
    action: str
    reason: str

    def __str__(self) -> str:
        return f"{self.action:<8} {self.name} ({type(self.module).__name__}): {self.reason}"


def register_pairing(pairing: Pairing) -> None:
    """Teach conversion which convolution a norm follows in a framework's own block.

    Args:
        pairing: Takes a parent module; returns {name of convolution: name of the norm after it},
            both relative to the parent, or None where it does not know this kind of parent.
    """
    _pairings.append(pairing)


def plan_conversion(
    module: nn.Module, filter_fn: FilterFn | None = None, *, swap_norms: bool = False
) -> list[Change]:
    r"""List what :func:`convert_to_ws` would change and skip, and why, without changing anything.

    Args:
        module: The model.
        filter_fn: Called with (module, qualified name) for every convolution that could be
            converted and every norm that could be swapped; False leaves it alone.
        swap_norms: Whether batch norms are to be swapped as well.

    Returns:
        One :class:`Change` for each convolution and, with ``swap_norms``, for each batch norm;
        ``print(*plan, sep="\n")`` is a readable table.
    """
    followed_by = dict(norm_pairs(module))
    inner = {norm.bn for norm in module.modules() if isinstance(norm, norms.BatchChannelNorm2d)}
    plan = []
    for name, child in module.named_modules():
        if isinstance(child, nn.modules.conv._ConvNd):
            action, reason = _judge(child, followed_by.get(child))
        elif swap_norms and isinstance(child, (_BATCH_NORM, *FROZEN_NORMS)) and child not in inner:
            action, reason = "swap", "batch norm"
        else:
            continue
        if action != "skip" and filter_fn is not None and not filter_fn(child, name):
            action, reason = "skip", "filter_fn said no"
        plan.append(Change(name, child, action, reason))
    return plan


def convert_to_ws(
    module: nn.Module,
    filter_fn: FilterFn | None = None,
    *,
    norm: Callable[[int], nn.Module] | None = None,
    **ws_options: Any,
) -> nn.Module:
    """Turn every convolution that a norm follows into its WS form, in place.

    Without a norm behind it a WS convolution makes the output explode; predictors, RPN and
    deconvolutions therefore stay as they are. Parameters, buffers, hooks, padding mode, device,
    dtype and training flag are kept: the convolutions stay the same objects with another class.

    Example::

        convert_to_ws(model, norm=functools.partial(torch.nn.GroupNorm, 32))

    Args:
        module: The model.
        filter_fn: Called with (module, qualified name); False leaves that module alone.
        norm: Builds the norm that replaces a batch norm from its number of channels. Weight, bias
            and, where the new norm has such, statistics of the batch norm are reused: by the
            inner batch norm if the new one is a :class:`~ws_det.BatchChannelNorm2d`. None keeps
            the norms.
        **ws_options: Options of :class:`ws_det.WSConv2d`: formula, eps, center, scale, adaptive.
            With ``adaptive=True`` the convolutions compute what they did before.

    Returns:
        ``module``, or the new norm if the module is itself a batch norm to be swapped.

    Raises:
        TypeError: If an option is unknown. Here and below nothing has been changed then.
        InputError: If there is nothing to change and no WS convolution in the module, as for a
            lone convolution, of which it is not known what follows; if the formula is unknown; or
            if a norm cannot be built, for example because its groups do not divide the channels.
    """
    plan = plan_conversion(module, filter_fn, swap_norms=norm is not None)
    _refuse_empty(plan, module)
    _to_ws(nn.Conv1d(2, 1, 1, device="meta"), ws_options)
    swaps = {
        change.module: _build_norm(norm, change)
        for change in plan
        if norm is not None and change.action == "swap"
    }
    for change in plan:
        if change.action == "convert":
            _to_ws(change.module, ws_options)
    for old, new in swaps.items():
        _take_over(new, old)
    for parent in list(module.modules()):
        for name, child in parent._modules.items():  # named_children() would skip a second name
            if child in swaps:
                parent._modules[name] = swaps[child]
    result = swaps.get(module, module)
    for call in after_conversion:
        call(result)
    return result


def _refuse_empty(plan: list[Change], module: nn.Module) -> None:
    if any(c.action != "skip" or isinstance(c.module, layers.WeightStandardized) for c in plan):
        return
    reasons = [f"{c.name or type(c.module).__name__}: {c.reason}" for c in plan[:3]]
    if len(plan) > len(reasons):
        reasons.append(f"and {len(plan) - len(reasons)} more")
    raise InputError(
        f"nothing to convert: {type(module).__name__} has no convolution that can become a WS "
        f"convolution ({'; '.join(reasons) or 'it has none'})"
    )


def _judge(conv: nn.Module, norm: nn.Module | None) -> tuple[str, str]:
    if isinstance(conv, layers.WeightStandardized):
        return "skip", "is a WS convolution"
    if type(conv) not in WS_CLASSES:
        return "skip", f"{type(conv).__name__} has no WS form"
    if norm is None:
        return "skip", "no norm follows it"
    try:
        functional.check_fan_in(conv.weight.shape, conv.transposed, conv.groups)
    except ValueError:
        return "skip", f"fan-in 1, kernel {tuple(conv.weight.shape)}"
    return "convert", f"{type(norm).__name__} follows it"


def norm_pairs(module: nn.Module) -> list[tuple[nn.Module, nn.Module]]:
    """Every convolution of a model with each norm that is known to follow it."""
    found = []
    for parent in module.modules():
        answers = (pairing(parent) for pairing in (*_pairings, _pair_by_order))
        pairs = next(answer for answer in answers if answer is not None)
        for conv, norm in pairs.items():
            found.append((parent.get_submodule(conv), parent.get_submodule(norm)))
    return found


def _pair_by_order(parent: nn.Module) -> dict[str, str]:
    """A convolution and the norm of as many channels that is its next sibling belong together."""
    children = [(n, c) for n, c in parent.named_children() if not isinstance(c, nn.Identity)]
    return {
        name: next_name
        for (name, conv), (next_name, norm) in zip(children, children[1:], strict=False)
        if isinstance(conv, nn.modules.conv._ConvNd)
        and isinstance(norm, _NORMS)
        and conv.out_channels == getattr(norm, "num_features", getattr(norm, "num_channels", None))
    }


def _to_ws(conv: nn.Module, ws_options: dict[str, Any]) -> None:
    conv.__class__ = WS_CLASSES[type(conv)]
    conv.configure_ws(**ws_options)
    if conv.adaptive:
        conv.adapt_to(conv.weight)


def _build_norm(norm: Callable[[int], nn.Module], change: Change) -> nn.Module:
    if type(change.module) in FROZEN_NORMS:
        raise InputError(
            f"cannot replace the norm {change.name}: {type(change.module).__name__} has no "
            f"parameters to reuse, so build the model with BN or with the new norm itself"
        )
    try:
        return norm(change.module.num_features)
    except ValueError as error:
        raise InputError(f"cannot replace the norm {change.name}: {error}") from error


def _take_over(new: nn.Module, old: nn.Module) -> None:
    """Give the new norm the parameters, statistics, hooks and state of the batch norm ``old``."""
    like = old.running_mean if old.weight is None else old.weight
    if like is not None:
        new.to(like.device, like.dtype)
    new.train(old.training)
    if old.weight is not None and not old.weight.requires_grad:
        new.requires_grad_(False)
    heir = new.bn if isinstance(new, norms.BatchChannelNorm2d) else new
    for kind in ("_parameters", "_buffers"):
        for name, tensor in getattr(old, kind).items():
            own = getattr(heir, kind).get(name)
            if own is not None and tensor is not None and own.shape == tensor.shape:
                getattr(heir, kind)[name] = tensor
    for name, hooks in vars(old).items():
        if name.endswith("_hooks"):
            setattr(new, name, hooks)
