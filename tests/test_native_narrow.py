"""Contractions with few columns, whose vectors lie along k, against the interpreter on every ISA.

Runs of k end inside, at and behind vectors; rows are inside, at and outside the borders.
"""

from __future__ import annotations

import native_lib
import numpy as np
import pytest

from onnx_fusion.program import interpret, parse_program

RNG = np.random.default_rng(31)


def assert_equal(text: str, *shapes: tuple[int, ...]) -> None:
    inputs = [RNG.uniform(-1, 1, shape).astype(np.float32) for shape in shapes]
    inputs[1] *= np.float32(inputs[1].size ** -0.5)
    (want,) = interpret(parse_program(text), inputs)
    scale = float(np.abs(want).max())
    for isa in native_lib.isas():
        for threads, constant in ((1, (1,)), (3, (1,)), (1, ())):
            (got,) = native_lib.server(isa).run(text, inputs, threads, constant)
            np.testing.assert_allclose(got, want, rtol=1e-5, atol=4e-6 * scale, err_msg=isa)


@pytest.mark.parametrize("out", ["row", "order(1, 2, 0)"])
@pytest.mark.parametrize(
    "c, o, r, s, stride, dilation, pad",
    [
        (8, 1, 5, 5, 1, 1, 2), (33, 1, 3, 3, 1, 1, 1), (32, 1, 7, 3, 1, 1, 3),
        (16, 2, 3, 3, 2, 1, 1), (12, 3, 1, 1, 1, 1, 0), (24, 4, 2, 2, 1, 2, 0),
        (9, 5, 3, 4, 1, 1, 6), (40, 6, 1, 3, 3, 1, 1), (64, 7, 1, 1, 1, 1, 0),
        (8, 8, 3, 9, 1, 1, 2), (65, 9, 1, 1, 1, 1, 0), (128, 8, 3, 1, 1, 1, 4),
    ],
)  # fmt: skip
def test_convolutions_of_few_outputs_equal_the_interpreter(c, o, r, s, stride, dilation, pad, out):
    h, w = 13, 22
    p = (h + 2 * pad - dilation * (r - 1) - 1) // stride + 1
    q = (w + 2 * pad - dilation * (s - 1) - 1) // stride + 1
    at = [f"{stride} * {x} + {dilation} * {k} - {pad}" for x, k in (("p", "r"), ("q", "s"))]
    assert_equal(
        f"""tile_program 1
input x f32[{c}, {h}, {w}] order(1, 2, 0)
input w f32[{o}, {c}, {r}, {s}] row
output y f32[{o}, {p}, {q}] {out}
stage o: {o}, p: {p}, q: {q}, c: {c}, r: {r}, s: {s}
%0 = load x (c, {at[0]}, {at[1]}) else 0.5
%1 = load w (o, c, r, s)
%2 = dot %0 %1 over c, r, s
%3 = const f32 0.25
%4 = add %2 %3
%5 = tanh %4
store y (o, p, q) %5
""",
        (h, w, c), (o, c, r, s),
    )  # fmt: skip


@pytest.mark.parametrize(
    "taps, stride, length, pad", [(256, 2, 700, 127), (37, 1, 90, 0), (65, 3, 99, 40)]
)
def test_convolutions_along_a_signal_equal_the_interpreter(taps, stride, length, pad):
    outputs = (length + 2 * pad - taps) // stride + 1
    assert_equal(
        f"""tile_program 1
input x f32[2, {length}] row
input w f32[{taps}] row
output y f32[2, {outputs}] row
stage b: 2, i: {outputs}, r: {taps}
%0 = load x (b, {stride} * i + r - {pad}) else 0
%1 = load w (r)
%2 = dot %0 %1 over r
store y (b, i) %2
""",
        (2, length), (taps,),
    )  # fmt: skip


@pytest.mark.parametrize("k, n", [(20, 2), (70, 4), (31, 1)])
def test_groups_of_few_columns_equal_the_interpreter(k, n):
    assert_equal(
        f"""tile_program 1
input x f32[50, 3, {k}] row
input w f32[3, {k}, {n}] row
output y f32[50, 3, {n}] row
stage g: 3, i: 50, j: {n}, k: {k}
%0 = load x (i, g, k)
%1 = load w (g, k, j)
%2 = dot %0 %1 over k
store y (i, g, j) %2
""",
        (50, 3, k), (3, k, n),
    )  # fmt: skip


@pytest.mark.parametrize("bad", [np.inf, np.nan])
def test_what_lies_behind_a_run_is_not_read(bad):
    text = """tile_program 1
input x f32[40, 48] row
input w f32[37, 1] row
output y f32[40, 1] row
stage i: 40, j: 1, k: 37
%0 = load x (i, k)
%1 = load w (k, j)
%2 = dot %0 %1 over k
store y (i, j) %2
"""
    x = RNG.uniform(-1, 1, (40, 48)).astype(np.float32)
    x[:, 37:] = bad
    w = RNG.uniform(-1, 1, (37, 1)).astype(np.float32)
    for isa in native_lib.isas():
        (got,) = native_lib.server(isa).run(text, [x, w], 1, (1,))
        np.testing.assert_allclose(
            got, x[:, :37].astype("f8") @ w, rtol=1e-4, atol=1e-5, err_msg=isa
        )
