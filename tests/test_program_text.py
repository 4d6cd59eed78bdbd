"""The text of programs: what is accepted, what is refused with which line, and what is printed."""

from __future__ import annotations

import random
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from program_cases import CASES

from onnx_fusion.dtypes import DType
from onnx_fusion.errors import ProgramError
from onnx_fusion.program import Const, parse_program, print_program
from onnx_fusion.program.model import FLOATS, literal
from onnx_fusion.program.text import print_literal

PAGE = Path(__file__).parents[1] / "onnx_fusion" / "docs" / "tile_program.md"
EXAMPLES = re.findall(r"```\n(tile_program 1\n.*?)```", PAGE.read_text(), re.S)

PLAIN = """tile_program 1
input x f32[N, 8] row
output y f32[N, 8] row
stage i: N, j: 8
%0 = load x (i, j)
%1 = exp %0
store y (i, j) %1
"""


def change(old: str, new: str) -> str:
    assert old in PLAIN
    return PLAIN.replace(old, new, 1)


def index(text: str) -> str:
    """Return a program with this expression as an index of a guarded load."""
    return change("(i, j)\n%1", f"(i, {text}) else 0\n%1")


@pytest.mark.parametrize("text", [*EXAMPLES, *(c.text for c in CASES)])
def test_printed_as_read(text):
    program = parse_program(text)
    assert print_program(program) == text
    assert parse_program(print_program(program)) == program


@pytest.mark.parametrize(
    "text",
    [
        PLAIN[:-1],
        PLAIN + "\n\n",
        change("tile_program 1", "tile_program  1  "),
        change("tile_program 1", "tile_program 01"),
        change("%0 = load x (i, j)", "  %0=load x(i,j)"),
        change("f32[N, 8] row\noutput", "f32 [ N,8 ]row\noutput"),
        change("stage i: N, j: 8", "stage i:N,j:8"),
        change("stage i: N, j: 8", "stage i :N , j :008"),
    ],
)
def test_spaces_are_free_around_punctuation(text):
    assert print_program(parse_program(text)) == PLAIN


@pytest.mark.parametrize(
    ("expr", "printed"),
    [
        ("((j))", "j"),
        ("(i*2)+(j)", "i * 2 + j"),
        ("i+(j-1)", "i + (j - 1)"),
        ("i-(j+1)", "i - (j + 1)"),
        ("--3*j", "--3 * j"),
        ("-(2*j)", "-(2 * j)"),
        ("2*(j//3)", "2 * (j // 3)"),
        ("(2*j)//3", "2 * j // 3"),
        ("(j+1)%N", "(j + 1) % N"),
        ("min(i,max(j,N-1))", "min(i, max(j, N - 1))"),
        ("j%8", "j % 8"),
        ("1099511627776", "1099511627776"),
    ],
)
def test_expressions_keep_their_tree(expr, printed):
    text = print_program(parse_program(index(expr)))
    assert text == index(printed)
    assert print_program(parse_program(text)) == text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1: expected 'tile_program', found the end of the line"),
        ("tile_program 2\n", "line 1: needs tile program 2, but this onnx_fusion reads 1"),
        ("tile_program 1\n", "line 1: the program has no output"),
        (PLAIN.split("stage")[0], "line 1: the program has no stage"),
        ("\n" + PLAIN, "line 1: expected 'tile_program', found the end of the line"),
        (change("stage", "\nstage"), "line 4: unexpected the end of the line"),
        (PLAIN + "\nstage", "line 8: unexpected the end of the line"),
        (PLAIN + "x\n", "line 8: unexpected 'x'"),
        (change("exp", "exp\t"), "line 6: a character is not printable ASCII"),
        (change("\noutput", "\r\noutput"), "line 2: a character is not printable ASCII"),
        (change("exp", "exp # e"), "line 6: unexpected '#'"),
        (change("exp", "é"), "line 6: a character is not printable ASCII"),
        (change("%1 = exp", "%2 = exp"), "line 6: expected %1"),
        (change("exp %0", "exp % 0"), "line 6: expected a value such as %0, found '%'"),
        (change("exp %0", "exp %0 %0"), "line 6: unexpected '%'"),
        (change("exp %0", "add %0"), "line 6: expected a value such as %0, found the end"),
        (change("exp %0", "exp %0x"), "line 6: expected a number, found '0x'"),
        (change("exp", "expm"), "line 6: expected an instruction, found 'expm'"),
        (change("exp", "store"), "line 6: expected an instruction, found 'store'"),
        (change("output y", "output Y"), "line 3: expected a tensor's name, found 'Y'"),
        (change("output y", "output " + "y" * 33), "line 3: expected a tensor's name"),
        (change("f32", "f33"), "line 2: expected a type, found 'f33'"),
        (change("row", "column"), "line 2: expected 'order', found 'column'"),
        (change("row", "order()"), r"line 2: order \(\) is not a permutation of 2 dims"),
        (change("row", "order(0, 0)"), r"line 2: order \(0, 0\) is not a permutation of 2 dims"),
        (change("row", "order(0)"), r"line 2: order \(0,\) is not a permutation of 2 dims"),
        (change("row", "row as ()"), "line 2: 'as' names no dim"),
        (change("[N, 8]", "[(N), 8]"), "line 2: dim 'N' is not bound yet"),
        (change("[N, 8]", "[N + 1, 8]"), "line 2: dim 'N' is not defined yet"),
        (change("i: N, j: 8", "min: N, j: 8"), "line 4: expected a letter, found 'min'"),
        (change("i: N, j: 8", "i: N, j: 8,"), "line 4: expected a letter, found the end"),
        (change("stage", "input z f32[] row\nstage"), "line 4: unexpected 'input'"),
        (change("output", "stage\noutput"), "line 3: the program has no output|line 4: unexp"),
        (index("j +"), "line 5: expected a number, a dim or a letter, found '\\)'"),
        (index("1099511627777"), r"line 5: a number is over 2\^40"),
        (index("9" * 5000), r"line 5: a number is over 2\^40"),
        (index("2j"), "line 5: expected a number, a dim or a letter, found '2j'"),
        (index("j / 2"), "line 5: unexpected '/'"),
        (index("j < 2"), "line 5: expected '\\)', found '<'"),
        (index("x_0"), "line 5: expected a number, a dim or a letter, found 'x_0'"),
        (index("min(j)"), "line 5: expected ',', found '\\)'"),
        (index("(" * 25 + "j" + ")" * 25), "line 5: an expression is nested over 24 deep"),
        (index("-" * 25 + "j"), "line 5: an expression is nested over 24 deep"),
        (index("(" * 5000 + "j"), "line 5: an expression is nested over 24 deep"),
        (index("+".join("j" * 129)), "line 5: an expression has over 256 nodes"),
        (change("%1 = exp %0", "%1 = const f32 1,5"), "line 6: '1,5' is not a literal of f32"),
        (change("%1 = exp %0", "%1 = const f32 +1"), r"line 6: '\+1' is not a literal of f32"),
        (change("%1 = exp %0", "%1 = const f32 - 1"), "line 6: '-' is not a literal of f32"),
        (change("%1 = exp %0", "%1 = const f32 1."), "line 6: '1.' is not a literal of f32"),
        (change("%1 = exp %0", "%1 = const f32 .5"), "line 6: unexpected '.'"),
        (change("%1 = exp %0", "%1 = const f32 0x1"), "line 6: '0x1' is not a literal of f32"),
        (change("%1 = exp %0", "%1 = const f32 -nan"), "line 6: '-nan' is not a literal of f32"),
        (change("%1 = exp %0", "%1 = const f32 1e39"), "line 6: '1e39' is not a literal of f32"),
        (change("%1 = exp %0", "%1 = const f64 1e309"), "line 6: '1e309' is not a literal of f64"),
        (change("%1 = exp %0", "%1 = const bf16 1e39"), "line 6: '1e39' is not a literal of bf16"),
        (change("%1 = exp %0", "%1 = const i8 128"), "line 6: '128' is not a literal of i8"),
        (change("%1 = exp %0", "%1 = const u8 -1"), "line 6: '-1' is not a literal of u8"),
        (change("%1 = exp %0", "%1 = const i32 1.0"), "line 6: '1.0' is not a literal of i32"),
        (change("%1 = exp %0", "%1 = const bool 1"), "line 6: '1' is not a literal of bool"),
        (
            change("%1 = exp %0", "%1 = const f32 " + "1" * 41),
            "line 6: a literal is longer than 40",
        ),
        (change("%1 = exp %0", "%1 = reduce_sum %0 over"), "line 6: expected a letter, found the"),
        (change("%1 = exp %0", "%1 = reduce_sum %0over j"), "line 6: expected a number, found '0o"),
        (change("%1 = exp %0", "%1 = select () %0 %0"), "line 6: expected a number, a dim or a le"),
        (change("%1 = exp %0", "%1 = select (i > 1) %0 %0"), "line 6: unexpected '>'"),
        (change("%1 = exp %0", "%1 = select (i < = 1) %0 %0"), "line 6: expected a number, a dim"),
        (PLAIN + " " * (1 << 20), "the text is over 1 MiB"),
    ],
)
def test_refused(text, message):
    with pytest.raises(ProgramError, match="^" + message) as caught:
        parse_program(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "expr",
    ["(" * 24 + "j" + ")" * 24, "-" * 24 + "j", "+".join("j" * 128), "9" * 0 + "0" * 900 + "1"],
)
def test_limits_are_exact(expr):
    parse_program(index(expr))


@pytest.mark.parametrize(
    ("dtype", "value", "text"),
    [
        ("f32", 768.0, "768"),
        ("f32", 1e-5, "1e-05"),
        ("f32", 0.1, "0.1"),
        ("f32", 1 / 3, "0.33333334"),
        ("f64", 1 / 3, "0.3333333333333333"),
        ("f16", 1 / 3, "0.3333"),
        ("bf16", 1 / 3, "0.334"),
        ("f32", -0.0, "-0"),
        ("f32", 3.4028235e38, "3.4028235e+38"),
        ("f32", 1e-45, "1e-45"),
        ("f32", float("inf"), "inf"),
        ("f32", -float("inf"), "-inf"),
        ("f32", float("nan"), "nan"),
        ("f16", 1e6, "inf"),
        ("i64", -(2**63), "-9223372036854775808"),
        ("u64", 2**64 - 1, "18446744073709551615"),
        ("bool", True, "true"),
    ],
)
def test_literals(dtype, value, text):
    kind = next(d for d in DType if d.text == dtype)
    assert print_literal(kind, value) == text
    read = parse_program(change("%1 = exp %0", f"%1 = const {dtype} {text}\n%2 = exp %0").replace(
        "j) %1", "j) %2"))  # fmt: skip
    assert read.stages[0].body[1] == Const(kind, value)


@given(st.integers(0, 2**32 - 1), st.sampled_from(sorted(FLOATS, key=str)))
def test_float_literals_read_back(bits, dtype):
    number = np.array([bits], np.uint32).view(np.float32)[0].item()
    text = print_literal(dtype, number)
    assert len(text) <= 40
    assert str(literal(dtype, float(text))) == str(literal(dtype, number))


def test_zero_and_minus_zero_differ():
    assert Const(DType.F32, 0.0) != Const(DType.F32, -0.0)
    assert Const(DType.F32, float("nan")) == Const(DType.F32, float("-nan"))
    assert Const(DType.F32, 0.1) == Const(DType.F32, np.float32(0.1))


CHARACTERS = "%() ,:=+-*/0123456789abcijkxyNMf32[]<.\n\t\x00é"
WORDS = (
    *("input", "output", "temp", "stage", "dim", "load", "store", "dot", "over", "const", "cast"),
    *("select", "where", "else", "as", "and", "row", "order", "strict", "min", "max", "index"),
    *("reduce_sum", "f32", "i64", "bool", "nan", "inf", "%0", "%1", "%99", "x0", "y0", "i", "j"),
    *("N", "//", "1099511627776"),
)


def mutate(text: str, rng: random.Random) -> str:
    kind, at = rng.randrange(6), rng.randrange(len(text))
    end = min(len(text), at + rng.randrange(1, 12))
    lines = text.split("\n")
    if kind == 0:
        return text[:at] + rng.choice(CHARACTERS) + text[at:]
    if kind == 1:
        return text[:at] + text[end:]
    if kind == 2:
        return text[:at] + rng.choice(WORDS) + text[end:]
    if kind == 3:
        k = rng.randrange(len(lines))
        lines.insert(rng.randrange(len(lines)), lines.pop(k))
        return "\n".join(lines)
    if kind == 4:
        k = rng.randrange(len(lines))
        lines.insert(k, lines[k])
        return "\n".join(lines)
    words = list(re.finditer(r"[A-Za-z0-9_]+", text))
    one, two = rng.choice(words), rng.choice(words)
    return text[: one.start()] + two[0] + text[one.end() :]


def test_mutations_raise_nothing_but_program_errors():
    rng = random.Random(7)
    texts = [*EXAMPLES, *(c.text for c in CASES[::9])]
    accepted = 0
    for _ in range(6000):
        text = rng.choice(texts)
        for _ in range(rng.randrange(1, 4)):
            text = mutate(text, rng) or " "
        try:
            program = parse_program(text)
        except ProgramError as error:
            assert re.match(r"line \d+: [^\n]+$|the text", str(error))
            continue
        accepted += 1
        printed = print_program(program)
        again = parse_program(printed)
        assert again == program
        assert print_program(again) == printed
    assert accepted > 100
