"""Work out the numbers that a text says, by its syntax tree and within bounds."""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable, Mapping
from typing import Any

_OPERATORS: dict[type, Callable[..., Any]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul,
    ast.Div: operator.truediv, ast.FloorDiv: operator.floordiv, ast.Pow: operator.pow,
    ast.UAdd: operator.pos, ast.USub: operator.neg,
}  # fmt: skip
_LARGEST = 1e6  # of any number in between, so that none takes long
_MOST = 1000  # letters of the text, and steps to take


def evaluate_numbers(text: str) -> Any:
    """Evaluate lists and tuples of arithmetic, as ``"[x * 2**(1 / 3) for x in [32, 64]]"``.

    Known are numbers, ``+ - * / // **``, one ``for`` in a list, ``int(...)`` and ``range(...)``.

    Raises:
        ValueError: If there is anything else in it, or it is too much.
    """
    if len(text) > _MOST:
        raise ValueError("it is too long")
    try:
        return _Numbers().value(ast.parse(text.strip(), mode="eval").body, {})
    except (ArithmeticError, MemoryError, RecursionError, SyntaxError, TypeError) as error:
        raise ValueError(str(error)) from None


class _Numbers:
    def __init__(self) -> None:
        self._steps = 0

    def value(self, node: ast.expr, names: Mapping[str, Any]) -> Any:
        self._steps += 1
        if self._steps > _MOST:
            raise ValueError("it is too long")
        match node:
            case ast.Constant(value=int() | float() as number) if not isinstance(number, bool):
                return _bounded(number)
            case ast.Name(id=name) if name in names:
                return names[name]
            case ast.List(elts=parts):
                return [self.value(part, names) for part in parts]
            case ast.Tuple(elts=parts):
                return tuple(self.value(part, names) for part in parts)
            case ast.UnaryOp(op=op, operand=one) if type(op) in _OPERATORS:
                return self._number(op, names, one)
            case ast.BinOp(op=op, left=one, right=other) if type(op) in _OPERATORS:
                return self._number(op, names, one, other)
            case ast.Call(func=ast.Name(id="int"), args=[one], keywords=[]):
                return int(_bounded(self.value(one, names)))
            case ast.ListComp(elt=part, generators=[loop]) if _is_plain(loop):
                values = self._values(loop.iter, names)
                return [self.value(part, {**names, loop.target.id: value}) for value in values]
        raise ValueError(f"{ast.unparse(node)[:60]} is no arithmetic")

    def _number(self, op: ast.AST, names: Mapping[str, Any], *parts: ast.expr) -> Any:
        return _bounded(_OPERATORS[type(op)](*(_bounded(self.value(p, names)) for p in parts)))

    def _values(self, node: ast.expr, names: Mapping[str, Any]) -> Any:
        """What a ``for`` goes through."""
        match node:
            case ast.Call(func=ast.Name(id="range"), args=parts, keywords=[]):
                return range(*(self.value(part, names) for part in parts))
            case ast.List() | ast.Tuple():
                return self.value(node, names)
        raise ValueError(f"{ast.unparse(node)[:60]} is no list")


def _is_plain(loop: ast.comprehension) -> bool:
    return isinstance(loop.target, ast.Name) and not loop.ifs and not loop.is_async


def _bounded(value: Any) -> Any:
    if not isinstance(value, (int, float)) or not math.isfinite(value) or abs(value) > _LARGEST:
        raise ValueError(f"{value!r:.60} is no number up to {_LARGEST:.0e}")
    return value
