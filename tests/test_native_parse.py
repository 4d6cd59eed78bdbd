"""The C++ parser and the Python one agree on which texts are programs, also on broken ones."""

from __future__ import annotations

import random
import re
from pathlib import Path

import native_lib
import pytest
from program_cases import CASES

from onnx_fusion.errors import ProgramError
from onnx_fusion.program import parse_program

PAGE = Path(__file__).parents[1] / "onnx_fusion" / "docs" / "tile_program.md"
EXAMPLES = re.findall(r"```\n(tile_program 1\n.*?)```", PAGE.read_text(), re.S)
TOKENS = re.compile(r"[A-Za-z0-9_.]+|//|<=|==|\n|.")
HEAD = "tile_program 1\ninput x f32[N] row\noutput y f32[N] row\nstage i: N\n"
REST = "%0 = load x (i)\nstore y (i) %0\n"


def python_accepts(text: str) -> str:
    """Return "" or the message."""
    try:
        parse_program(text)
    except ProgramError as error:
        return str(error)
    return ""


def assert_agree(text: str) -> bool:
    code, message = native_lib.check(text)
    want = python_accepts(text)
    assert (code != 1) == (want == ""), f"native: {message!r}\npython: {want!r}\n{text}"
    if code == 1:
        assert re.match(r"line \d+: \S", message), message
        assert "\n" not in message
    return code != 1


@pytest.mark.parametrize("text", EXAMPLES, ids=range(len(EXAMPLES)))
def test_the_specification_s_examples_run(text):
    assert native_lib.check(text) == (0, "")


def test_every_case_is_accepted():
    for case in CASES:
        assert native_lib.check(case.text)[0] == 0, case.name


def mutate(text: str, rng: random.Random) -> str:
    tokens = TOKENS.findall(text)
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(tokens))
        match rng.randrange(6):
            case 0:
                del tokens[at]
            case 1:
                tokens.insert(at, tokens[rng.randrange(len(tokens))])
            case 2:
                tokens[at] = tokens[rng.randrange(len(tokens))]
            case 3:
                other = rng.randrange(len(tokens))
                tokens[at], tokens[other] = tokens[other], tokens[at]
            case 4:
                tokens[at] = rng.choice(
                    ["min", "max", "-", "%", "//", "0", "1", "00", "1099511627777", "(", ")", "N",
                     "else", "and", "over", "i", "j", "i64", "f16", "bool", "true", "nan", "-inf",
                     "1e5", "1.5", "order", "as", "strict", "\t", "é", " ", "", "%1", "store"]
                )  # fmt: skip
            case 5:
                lines = "".join(tokens).split("\n")
                if len(lines) > 2:
                    k = rng.randrange(len(lines) - 1)
                    lines.insert(rng.randrange(len(lines)), lines.pop(k))
                tokens = TOKENS.findall("\n".join(lines)) or ["x"]
        if not tokens:
            return ""
    return "".join(tokens)


@pytest.mark.parametrize("seed", range(8))
def test_mutated_texts(seed):
    rng = random.Random(seed)
    texts = EXAMPLES + [case.text for case in CASES[:: max(1, len(CASES) // 60)]]
    accepted = 0
    for _ in range(700):
        accepted += assert_agree(mutate(rng.choice(texts), rng))
    assert accepted > 20


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n",
        "tile_program 2\n",
        "tile_program 1\n",
        "tile_program 1 strict\n" + HEAD[15:] + REST,
        "tile_program 1 Strict\n" + HEAD[15:] + REST,
        HEAD + REST,
        HEAD + REST + "\n\n",
        HEAD + REST[:-1],
        HEAD + "\n" + REST,
        HEAD + REST.replace("%0", "%00"),
        HEAD + REST.replace("%0 =", "%1 ="),
        HEAD + REST.replace("(i)", "( i )").replace("=", " = "),
        HEAD + REST.replace("(i) %0", "(i)%0"),
        HEAD + REST.replace("load x", "load  x"),
        HEAD + REST.replace("(i)\n", "(i) else 0\n", 1),
        HEAD + REST.replace("(i)\n", "(i) else 1e39\n", 1),
        HEAD + REST.replace("(i)\n", "(i) else 1e-400\n", 1),
        HEAD + REST.replace("(i)\n", "(i) else 3.4028236e38\n", 1),
        HEAD + REST.replace("(i)\n", "(i) else 3.5e38\n", 1),
        HEAD + REST.replace("(i)\n", "(i) else -inf\n", 1),
        HEAD + REST.replace("(i)\n", "(i) else +1\n", 1),
        HEAD + REST.replace("(i)\n", "(i) else .5\n", 1),
        HEAD + REST.replace("(i)\n", "(i) else 5.\n", 1),
        HEAD + REST.replace("(i)\n", "(i) else 1E5\n", 1),
        HEAD + REST.replace("(i)\n", f"(i) else {'0' * 41}\n", 1),
        HEAD + REST.replace("(i)\n", f"({'(' * 24}i{')' * 24})\n", 1),
        HEAD + REST.replace("(i)\n", f"({'(' * 25}i{')' * 25})\n", 1),
        HEAD + REST.replace("(i)\n", f"({'-' * 24}i)\n", 1),
        HEAD + REST.replace("(i)\n", f"({'-' * 25}i)\n", 1),
        HEAD + REST.replace("(i)\n", f"({'min(' * 24}i{', 1)' * 24})\n", 1),
        HEAD + REST.replace("(i)\n", f"({'min(' * 25}i{', 1)' * 25})\n", 1),
        HEAD + REST.replace("(i)\n", f"(i{' + 0' * 127})\n", 1),
        HEAD + REST.replace("(i)\n", f"(i{' + 0' * 128})\n", 1),
        HEAD + REST.replace("(i)\n", "(i // i)\n", 1),
        HEAD + REST.replace("(i)\n", "(i %4)\n", 1),
        HEAD + REST.replace("(i)\n", "(i % 4)\n", 1),
        HEAD + REST.replace("store y (i)", "store y (i + (0 + 0))"),
        HEAD + REST.replace("store y (i)", "store y (0 + i)"),
        HEAD + REST.replace("store y (i)", "store y (N - i)"),
        HEAD + REST.replace("store y (i)", "store y (i - (0 - 0))"),
        HEAD + REST.replace("store y (i)", "store y (i * 1 * 1)"),
        HEAD + REST.replace("store y (i)", "store y (i * (1 * 1))"),
        HEAD + REST.replace("store y (i)", "store y (-i)"),
        HEAD.replace("stage i: N", "stage i: N, min: 1") + REST,
        HEAD.replace("stage i: N", "stage i: N, i: 1") + REST,
        HEAD.replace("stage i: N", "stage i: i") + REST,
        HEAD.replace("f32[N] row\nout", "f32[N + 1] row\nout") + REST,
        HEAD.replace("f32[N] row\nout", "f32[(N)] row\nout") + REST,
        HEAD.replace("f32[N] row\nout", "f32[N] order(0)\nout") + REST,
        HEAD.replace("f32[N] row\nout", "f32[N] order()\nout") + REST,
        HEAD.replace("f32[N] row\nout", "f32[N] order(1)\nout") + REST,
        HEAD.replace("f32[N] row\nout", "f32[N] order(0, 0)\nout") + REST,
        HEAD.replace("f32[N] row\nout", "i64[1] row as (N)\nout") + REST,
        HEAD.replace("f32[N] row\nout", "i64[1 + 0] row as (N)\nout") + REST,
        HEAD.replace("f32[N] row\nout", "f32[N] row as (A)\nout") + REST,
        HEAD.replace("input x", f"input {'x' * 33}") + REST,
        "\n".join(HEAD.split("\n")[:1] + [f"input a{k} f32[] row" for k in range(257)]) + "\n",
        HEAD + "".join(f"%{k} = const f32 0\n" for k in range(2047)) + "store y (i) %0\n",
        HEAD + "".join(f"%{k} = const f32 0\n" for k in range(2048)) + "store y (i) %0\n",
        HEAD + REST + "stage\n%0 = const f32 0\nstore y () %0\n",
        HEAD + REST.replace("y (i) %0", "y (i) %1"),
        HEAD + "%0 = load y (i)\nstore y (i) %0\n",
        HEAD + REST + "x" * (1 << 20),
    ],
)  # fmt: skip
def test_edges(text):
    assert_agree(text)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("%0 = load x (i, j)\n%1 = reduce_sum %0 over j\n%2 = reduce_max %0 over i\n"
         "store y (i) %1\nstore z (j) %2\n", "same letters"),
        ("%0 = load x (i, j)\n%1 = dot %0 %0 over j\n%2 = dot %1 %1 over i\nstore y (i) %1\n"
         "%3 = reduce_sum %0 over i\nstore z (j) %3\n", "dot"),
    ],
)  # fmt: skip
def test_a_stage_that_no_kernel_runs_says_why(body, reason):
    text = (
        "tile_program 1\ninput x f32[M, K] row\noutput y f32[M] row\noutput z f32[K] row\n"
        f"stage i: M, j: K\n{body}"
    )
    assert python_accepts(text) == ""
    code, message = native_lib.check(text)
    assert code == 2
    assert re.match(r"line \d+: ", message)
    assert reason in message
