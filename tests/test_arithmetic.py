"""Numbers of a text. Oracle: Python's own eval, of texts that are made here or are harmless."""

from __future__ import annotations

import random
import time

import pytest

from ws_det.arithmetic import evaluate_numbers

# The two that Detectron2's configs have, and others.
TEXTS = (
    "[[x, x * 2**(1.0/3), x * 2**(2.0/3) ] for x in [32, 64, 128, 256, 512 ]]",
    "[int(x * 0.1 * 640) for x in range(5, 16)]",
    " [(x, -y) for x in (1, 2) ] ".replace("y", "x"),
    "[[x + y for x in range(3)] for y in [10, 20]]",
    "(1, [2.5, +3], 7 // 2, 2 ** -1)",
    "[x for x in []]",
)
HOSTILE = (
    "__import__('os').system('true')", "open", "x", "().__class__", "(lambda: 1)()", "'a'", "True",
    "b'a'", "None", "...", "1j", "f'{1}'", "{1: 2}", "{1}", "a.b", "[1][0]", "[0] * 9", "1 < 2",
    "1 if 1 else 2", "[x for x in [1] if x]", "[x for x in 'ab']", "[y for x, y in [(1, 2)]]",
    "[x for x in [1] for y in [2]]", "(x for x in [1])", "int('3')", "int(3, 4)", "int(x=3)",
    "max(1, 2)", "range(3)", "[*[1]]", "(x := 3)", "[x for x in range(3.5)]", "1 / 0", "1e999",
    "(-8) ** 0.5", "9 ** 9 ** 9 ** 9", "10 ** 7", "[x for x in range(10 ** 9)]", "int",
    "[0 for x in range(2000)]", "1 +", "", "(" * 500, "-" * 900 + "1", "1" * 5000, "1+" * 5000,
    "[x for x in range(0)", "import os", "[[x for x in range(99)] for y in range(99)]", "1 % 2",
    "1 << 2", "~1", "not 1", "1 and 2", "1 @ 2", "await x", "[x async for x in [1]]", "\0",
)  # fmt: skip


@pytest.mark.parametrize("text", TEXTS)
def test_as_python_has_it(text: str) -> None:
    assert evaluate_numbers(text) == eval(text.strip())


def test_random_terms() -> None:
    """What is worked out is right, and only what is too much is refused."""
    chance = random.Random(0)

    def term(depth: int) -> str:
        if not depth or chance.random() < 0.2:
            return chance.choice(["x", "3", "0.5", "17", "2"])
        one, other = term(depth - 1), term(depth - 1)
        terms = [f"({one} {op} {other})" for op in "+-*/"]
        return chance.choice([*terms, f"int({one})", f"-{one}"])

    right = 0
    for _ in range(500):
        text = f"[{term(4)} for x in [{chance.randrange(9)}, 7]]"
        try:
            found = evaluate_numbers(text)
        except ValueError:
            continue
        assert found == eval(text)
        right += 1
    assert right > 300


@pytest.mark.parametrize("text", HOSTILE)
def test_anything_else_is_refused(text: str) -> None:
    """In a second at most, whatever it would make."""
    start = time.perf_counter()
    with pytest.raises(ValueError):
        evaluate_numbers(text)
    assert time.perf_counter() - start < 1
