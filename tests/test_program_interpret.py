"""The interpreter against evaluation element by element, NumPy and onnx.reference."""

from __future__ import annotations

import math
import re
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import onnx.reference
import pytest
from program_case_scalar import run
from program_cases import CASES

from onnx_fusion.dtypes import DType
from onnx_fusion.errors import ProgramError
from onnx_fusion.program import evaluate, interpret, parse_program
from onnx_fusion.program.instructions import INSTRUCTIONS, REDUCTIONS
from onnx_fusion.program.model import from_bf16, literal, to_bf16

PAGE = Path(__file__).parents[1] / "onnx_fusion" / "docs" / "tile_program.md"
EXAMPLES = re.findall(r"```\n(tile_program 1\n.*?)```", PAGE.read_text(), re.S)
SMALL = 6000
UNSIGNED = ("sign", "mod", "min", "max", "reduce")
"""Instructions whose zeros have no sign that the specification fixes."""


def points(program, inputs) -> int:
    env = {}
    for t, a in zip(program.inputs, inputs, strict=True):
        shape = a.shape if t.order is None else [a.shape[t.order.index(d)] for d in range(a.ndim)]
        env |= {str(e): n for e, n in zip(t.shape, shape, strict=True)}
        env |= dict(zip(t.binds, a.reshape(-1).tolist(), strict=False))
    for name, e in program.dims:
        env[name] = evaluate(e, env)
    return sum(math.prod(evaluate(e, env) for _, e in s.letters) for s in program.stages)


def small_cases():
    for case in CASES:
        program = parse_program(case.text)
        if points(program, case.inputs()) <= SMALL:
            yield case


@pytest.mark.parametrize("case", small_cases(), ids=lambda case: case.name)
def test_equals_evaluation_point_by_point(case):
    program, inputs = parse_program(case.text), case.inputs()
    for got, want in zip(interpret(program, inputs), run(program, inputs), strict=True):
        assert got.shape == want.shape
        assert got.dtype == want.dtype
        if got.dtype.kind == "f":
            np.testing.assert_allclose(got, want, rtol=2e-6, atol=1e-6 * case.loose)
            if case.name.endswith("_special") and not case.name.startswith(UNSIGNED):
                zeros = want == 0
                np.testing.assert_array_equal(np.signbit(got[zeros]), np.signbit(want[zeros]))
        else:
            np.testing.assert_array_equal(got, want)


def test_cases_cover_every_instruction():
    used = {line.split()[2] for case in CASES for line in case.text.split("\n") if "=" in line}
    assert INSTRUCTIONS.keys() | REDUCTIONS.keys() | {"load", "dot", "select"} <= used


def test_inputs_are_not_changed_and_results_are_contiguous():
    for case in CASES[::7]:
        inputs = case.inputs()
        copies = [a.copy() for a in inputs]
        for output in interpret(parse_program(case.text), inputs):
            assert output.flags.c_contiguous
        for a, b in zip(inputs, copies, strict=True):
            np.testing.assert_array_equal(a, b)


def f(rng, *shape):
    return rng.standard_normal(shape).astype(np.float32)


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def silu(x):
    return x / (1 + np.exp(-x))


def reference(op: str, inputs: list[np.ndarray], **attributes) -> np.ndarray:
    node = onnx.helper.make_node(op, [f"x{k}" for k in range(len(inputs))], ["y"], **attributes)
    return onnx.reference.ReferenceEvaluator(node).run(
        None, {f"x{k}": a.astype(np.float64) for k, a in enumerate(inputs)}
    )[0]


def attention(q, k, v, mask):
    b, s, _ = q.shape
    q, k, v = (a.astype(np.float64).reshape(b, s, 12, 64).transpose(0, 2, 1, 3) for a in (q, k, v))
    weights = softmax(q @ k.transpose(0, 1, 3, 2) * 0.125 + mask)
    return [(weights @ v).transpose(0, 2, 1, 3).reshape(b, s, 768)]


def layer_norm(x, g, b):
    x = x.astype(np.float64)
    centred = x - x.mean(-1, keepdims=True)
    return [centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5) * g + b]


def shuffle(x):
    n, _, h, w = x.shape
    x = np.maximum(x, 0)
    return [x.reshape(n, 2, 4, h, w).transpose(0, 2, 1, 3, 4).reshape(n, 8, h, w)]


WORKED = [
    (
        lambda r: [f(r, 5, 768), f(r, 768, 3072), f(r, 3072)],
        lambda x, w, b: [silu(x.astype(np.float64) @ w + b)],
    ),
    (
        lambda r: [f(r, 2, 16, 9, 12), f(r, 32, 16, 3, 3), f(r, 32)],
        lambda x, w, b: [
            silu(reference("Conv", [x, w, b], strides=[2, 2], pads=[1, 1, 1, 1])).transpose(
                0, 2, 3, 1
            )
        ],
    ),
    (lambda r: [f(r, 2, 3, 768), f(r, 768), f(r, 768)], layer_norm),
    (lambda r: [f(r, 2, 5, 768) for _ in range(3)] + [f(r, 2, 1, 1, 5)], attention),
    (lambda r: [f(r, 2, 8, 3, 5)], shuffle),
    (
        lambda r: [f(r, 3, 10), f(r, 3, 3)],
        lambda x, z: [np.exp(np.concatenate([-x[:, 2:6], z], 1))],
    ),
    (
        lambda r: [f(r, 3, 9), f(r, 3, 9)],
        lambda x, z: [x + z, ((x + z) ** 2).sum(1, keepdims=True)],
    ),
    (
        lambda r: [f(r, 11, 64), np.array([0, 10, -1, -11, 3])],
        lambda x, k: [x[k]],
    ),
    (
        lambda r: [f(r, 4), np.array([3, 4])],
        lambda x, s: [np.broadcast_to(np.tanh(x), s)],
    ),
]


@pytest.mark.parametrize("k", range(9))
def test_worked_examples_compute_what_numpy_says(k):
    assert len(EXAMPLES) == len(WORKED) == 9
    make, oracle = WORKED[k]
    inputs = make(np.random.default_rng(k))
    got, want = interpret(parse_program(EXAMPLES[k]), inputs), oracle(*inputs)
    assert len(got) == len(want)
    for a, b in zip(got, want, strict=True):
        assert a.shape == b.shape
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def case(name):
    return next(c for c in CASES if c.name == name)


def test_grouped_and_dilated_convolutions_equal_onnx():
    for c in CASES:
        found = re.fullmatch(r"conv_nchw_(\d+)to(\d+)g(\d+)k(\d+)s(\d+)d(\d+)p(\d+)", c.name)
        if not found:
            continue
        _, _, g, _, s, d, p = map(int, found.groups())
        x, w, b, z = c.inputs()
        want = reference("Conv", [x, w, b], group=g, strides=[s, s], dilations=[d, d], pads=[p] * 4)
        (got,) = interpret(parse_program(c.text), [x, w, b, z])
        np.testing.assert_allclose(got, np.maximum(want + z, 0), rtol=1e-4, atol=1e-5)


def test_stages_are_the_same_in_parts(monkeypatch):
    chosen = [c for c in CASES if not c.name.startswith(("cast", "conv"))][::5]
    whole = [interpret(parse_program(c.text), c.inputs()) for c in chosen]
    monkeypatch.setattr(sys.modules[interpret.__module__], "CHUNK", 40)
    for c, want in zip(chosen, whole, strict=True):
        for a, b in zip(interpret(parse_program(c.text), c.inputs()), want, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-6)


def test_indirect_index_out_of_range_fails():
    c = case("gather_7")
    x, _ = c.inputs()
    for bad in (11, -12, 2**62):
        with pytest.raises(ProgramError, match="an index into 'x' of shape .* is out of range"):
            interpret(parse_program(c.text), [x, np.full(7, bad)])


def test_empty_reduced_letter_gives_the_neutral_element():
    x, w = np.zeros((3, 0), np.float32), np.zeros((0, 4), np.float32)
    (y,) = interpret(parse_program(case("matmul_nn_3x0x4").text), [x, w])
    np.testing.assert_array_equal(y, np.zeros((3, 4)))
    for op, want in (("sum", 0), ("prod", 1), ("max", -np.inf), ("min", np.inf)):
        (y,) = interpret(parse_program(case(f"reduce_{op}_last_4x0").text), [np.zeros((4, 0), "f")])
        np.testing.assert_array_equal(y, np.full(4, want))


def test_inputs_of_the_wrong_type_or_number_are_refused():
    program = parse_program(case("gather_7").text)
    x, k = case("gather_7").inputs()
    with pytest.raises(ProgramError, match="input 'k' is int32, but must be i64"):
        interpret(program, [x, k.astype(np.int32)])
    with pytest.raises(ProgramError, match="1 inputs for a program with 2"):
        interpret(program, [x])


def test_bf16_rounds_to_nearest_even():
    values = np.array([1 + 2**-8, 1 + 3 * 2**-8, 1 + 2**-8 + 2**-40, 3.4e38, np.nan, -np.inf])
    want = [1, 1 + 2**-6, 1 + 2**-7, np.inf, np.nan, -np.inf]
    np.testing.assert_array_equal(from_bf16(to_bf16(values)), np.float32(want))
    assert literal(DType.BF16, 1 + 2**-8 + 2**-40) == 1 + 2**-7
    assert literal(DType.F16, 1e6) == math.inf


def test_large_stages_take_about_a_second():
    text = """tile_program 1
input x f32[N, 64, H, W] row
input w f32[64, 64, 3, 3] row
output y f32[N, 64, H, W] row
stage n: N, o: 64, p: H, q: W, c: 64, r: 3, s: 3
%0 = load x (n, c, p + r - 1, q + s - 1) else 0
%1 = load w (o, c, r, s)
%2 = dot %0 %1 over c, r, s
store y (n, o, p, q) %2
"""
    rng = np.random.default_rng(0)
    start = time.process_time()
    interpret(parse_program(text), [f(rng, 1, 64, 28, 28), f(rng, 64, 64, 3, 3)])
    matmul = parse_program(case("matmul_nn_1x1x1").text)
    interpret(matmul, [f(rng, 256, 256), f(rng, 256, 256)])
    assert time.process_time() - start < 8
