"""Export to ONNX, checked against torch before the file takes its name."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn

from ws_det import norm_fold
from ws_det.errors import InputError, first_line
from ws_det.files import replacing
from ws_det.fold import fold_ws
from ws_det.layers import WeightStandardized

# The first with everything that a GroupNorm, an upsampling and a RoIAlign need.
_OPSET = 17
# Of the largest value of an output. In float32 torch itself is 1.5e-4 from its float64 in a
# ResNet-50 with random weights, and onnxruntime adds in another order; a wrong layer gives 1e-1.
_TOLERANCE = 1e-3

Align = Callable[[Sequence[Tensor], Sequence[Tensor]], Sequence[Tensor]]


def feature_axes(levels: Sequence[str]) -> dict[str, dict[int, str]]:
    """The axes of an image and its feature maps, each of a height and a width of its own."""
    maps = {name: {0: "batch", 2: f"{name}_height", 3: f"{name}_width"} for name in levels}
    return {"image": {0: "batch", 2: "height", 3: "width"}, **maps}


def feature_examples(shape: Sequence[int]) -> list[Tensor]:
    """An image to trace, and to compare another batch of the other orientation.

    Raises:
        InputError: If an FPN would not halve the sides five times.
    """
    height, width = shape
    if height < 32 or width < 32 or height % 32 or width % 32:
        raise InputError(
            f"--shape {height} {width}: give multiples of 32, to which the framework pads images"
        )
    return [torch.randn(1, 3, height, width), torch.randn(2, 3, width, height)]


def require_onnx() -> None:
    """Check that the packages are there.

    Raises:
        InputError: If one is not.
    """
    missing = [name for name in ("onnx", "onnxruntime") if find_spec(name) is None]
    if missing:
        raise InputError(
            f"an export needs {' and '.join(missing)}: install them with pip install "
            f"'ws_det[export]', or pip install onnx onnxruntime"
        )


def fold_all(model: nn.Module) -> nn.Module:
    """Fold what there is to fold, BCN too; see ``fold_ws``."""
    ws = any(isinstance(m, WeightStandardized) for m in model.modules())
    if ws or norm_fold.est_bns(model) or norm_fold.bcns(model):
        return fold_ws(model, bcn=True)
    return model


def export_onnx(
    model: nn.Module,
    examples: Sequence[Tensor],
    path: str | Path,
    axes: dict[str, dict[int, str]],
    say: Callable[[str], None] = print,
    align: Align | None = None,
) -> float:
    """Fold a model and export it; the file appears when onnxruntime gives what torch gives.

    Args:
        model: In eval mode; it takes a tensor and gives a tuple of tensors. It is folded in place.
        examples: Inputs; the first is traced, all are compared.
        path: Of the file to write.
        outputs: The names of the outputs.
        axes: By name, the input and then each output: which axes may change their size, and how
            that size is called.
        say: What takes a line of progress.
        align: Brings onnxruntime's outputs into the order of torch's, where that is free.

    Returns:
        The largest difference, as a part of the largest value of its output.

    Raises:
        InputError: If a package is missing, the model cannot be exported, an output differs, or
            the file cannot be written.
    """
    require_onnx()
    with torch.no_grad():
        expected = [model(example) for example in examples]
    fold_all(model)
    with replacing(path) as file:
        part = Path(file.name)
        say("1/2 exporting (up to a minute for a large network)")
        _export(model, examples[0], part, axes)
        say("2/2 comparing onnxruntime with torch")
        error = max(_errors(part, examples, expected, align))
        if not error <= _TOLERANCE:
            raise InputError(
                f"onnxruntime's output differs from torch's by {error:.1e} of its largest value: "
                f"export another part of the model, and report this"
            )
    return error


def _export(model: nn.Module, example: Tensor, path: Path, axes: dict[str, dict[int, str]]) -> None:
    import onnx

    given, *outputs = axes
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # of a trace: it branches on sizes
            torch.onnx.export(
                model,
                (example,),
                str(path),
                input_names=[given],
                output_names=outputs,
                dynamic_axes=axes,
                opset_version=_OPSET,
                dynamo=False,
            )
        onnx.checker.check_model(str(path), full_check=True)
    except OSError:
        raise
    except Exception as error:  # the exporter's own errors have no class in common
        raise InputError(
            f"torch cannot export this model to ONNX ({first_line(error)}): export a smaller part"
        ) from error


def _errors(
    path: Path,
    examples: Sequence[Tensor],
    expected: Sequence[Sequence[Tensor]],
    align: Align | None,
) -> list[float]:
    """The largest difference of each output, as a part of its largest value."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    errors = []
    for example, outputs in zip(examples, expected):
        got = session.run(None, {session.get_inputs()[0].name: example.numpy()})
        found = [torch.from_numpy(array) for array in got]
        if [tensor.shape for tensor in found] != [tensor.shape for tensor in outputs]:
            return [float("inf")]
        for ours, theirs in zip(align(found, outputs) if align else found, outputs):
            if ours.numel():
                difference = (ours.double() - theirs.double()).abs().max()
                errors.append(float(difference / theirs.double().abs().max().clamp_min(1e-12)))
    return errors
