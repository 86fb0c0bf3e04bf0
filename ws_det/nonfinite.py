"""Find where a training step became NaN or infinite."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn


def loss_terms(losses: Mapping[str, Any] | Tensor) -> dict[str, Tensor]:
    """The terms that are summed to the loss, one number each: those named a loss.

    Args:
        losses: Of a detector in training: one tensor, or tensors by name. MMDetection has lists of
            tensors, by level, and numbers that are only logged.

    Returns:
        A number by name.
    """
    if isinstance(losses, Tensor):
        return {"loss": losses}
    return {
        name: torch.stack([tensor.float().mean() for tensor in _tensors(value)]).sum()
        for name, value in losses.items()
        if "loss" in name and any(True for _ in _tensors(value))
    }


def search(model: nn.Module, forward: Callable[[], Any]) -> dict[str, Any]:
    """Run a forward pass again, and where it is finite the backward pass, and look at each layer.

    Args:
        model: In training mode.
        forward: The pass: from the same input and the same random state to the loss terms.

    Returns:
        ``layer``: name of the first module, in the order in which they finish, whose output is not
        finite, else of the one in whose backward the first gradient is not; None if there is
        none. ``layer_type``: its class. ``input_is_finite``: of that module. ``where``:
        "forward", "backward" or None. ``parameter``: the first one, in the order of use, with a
        value that is not finite. ``buffer``: one that had such a value before. ``losses``: by name.
    """
    found: dict[str, Any] = dict(layer=None, layer_type=None, input_is_finite=None, where=None)
    order: dict[str, nn.Module] = {}
    buffer = next((n for n, b in model.named_buffers() if not _all_finite(b)), None)

    def look(name: str, module: nn.Module, inputs: Any, output: Any) -> None:
        order.setdefault(name, module)
        # A norm inside a convolution, as Detectron2 has it, finishes before it: it is not to blame.
        inside = found["input_is_finite"] is False and found["layer"].rpartition(".")[0] == name
        owns = next(module.parameters(recurse=False), None) is not None
        if (found["layer"] is None and not _all_finite(output)) or (inside and owns):
            found.update(_named(name, module, "forward"), input_is_finite=_all_finite(inputs))

    handles = [
        module.register_forward_hook(lambda m, i, o, name=name: look(name, m, i, o))
        for name, module in model.named_modules()
        if name
    ]
    losses: dict[str, Tensor] = {}
    try:
        losses = forward()
    except FloatingPointError:  # Detectron2's proposals refuse such scores; the layer is known
        pass
    finally:
        for handle in handles:
            handle.remove()
    if found["layer"] is None and losses:
        found.update(_search_gradients(model, order, sum(losses.values())))
    return found | {
        "parameter": _first_parameter(model, order),
        "buffer": buffer,
        "losses": {name: loss.item() for name, loss in losses.items()},
    }


def _search_gradients(
    model: nn.Module, order: Mapping[str, nn.Module], loss: Tensor
) -> dict[str, Any]:
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    gradients = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
    owners = {
        name.rpartition(".")[0]
        for name, gradient in zip(named, gradients, strict=True)
        if gradient is not None and not gradient.isfinite().all()
    }
    # Backward runs the other way: the last of them in the order of use had it first.
    last = [name for name in order if name in owners][-1:]
    return {k: v for n in last for k, v in _named(n, order[n], "backward").items()}


def _named(name: str, module: nn.Module, where: str) -> dict[str, str]:
    return {"layer": name, "layer_type": type(module).__name__, "where": where}


def _first_parameter(model: nn.Module, order: Mapping[str, nn.Module]) -> str | None:
    """The first with a bad value, those of layers that ran before the rest."""
    for prefix, module in [*order.items(), *model.named_modules()]:
        for name, parameter in module.named_parameters(recurse=False):
            if not _all_finite(parameter):
                return f"{prefix}.{name}" if prefix else name
    return None


def _all_finite(value: Any) -> bool:
    return all(bool(t.isfinite().all()) for t in _tensors(value) if t.is_floating_point())


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from _tensors(part)
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from _tensors(part)
