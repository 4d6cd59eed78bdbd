"""Products of rows that lie equally far apart, against float64, on every ISA."""

from __future__ import annotations

import native_lib
import numpy as np
import pytest

RNG = np.random.default_rng(11)

# By name: lines from the biased sum %4 on, the value stored, and what that is.
ENDS = {
    "none": ("", 4, lambda v, r: v),
    "clamp": (
        "%5 = const f32 0\n%6 = max %4 %5\n%7 = const f32 1.5\n%8 = min %6 %7\n",
        8,
        lambda v, r: np.clip(v, 0, 1.5),
    ),
    "hard_swish": (
        "%5 = const f32 0.25\n%6 = mul %4 %5\n%7 = const f32 0.5\n%8 = add %6 %7\n"
        "%9 = const f32 0\n%10 = max %8 %9\n%11 = const f32 1\n%12 = min %10 %11\n"
        "%13 = mul %4 %12\n",
        13,
        lambda v, r: v * np.clip(v * 0.25 + 0.5, 0, 1),
    ),
    "silu": ("%5 = sigmoid %4\n%6 = mul %4 %5\n", 6, lambda v, r: v / (1 + np.exp(-v))),
    "residual": ("%5 = load r (i, j)\n%6 = add %4 %5\n", 6, lambda v, r: v + r),
    "residual_clamp": (
        "%5 = load r (i, j)\n%6 = add %4 %5\n%7 = const f32 0\n%8 = max %6 %7\n",
        8,
        lambda v, r: np.maximum(v + r, 0),
    ),
    "silu_residual": (
        "%5 = sigmoid %4\n%6 = mul %4 %5\n%7 = load r (i, j)\n%8 = add %6 %7\n",
        8,
        lambda v, r: v / (1 + np.exp(-v)) + r,
    ),
    "gain_residual": (
        "%5 = load r (0, j)\n%6 = mul %4 %5\n%7 = load r (i, j)\n%8 = add %6 %7\n",
        8,
        lambda v, r: v * r[0] + r,
    ),
    "clamp_scaled": (
        "%5 = const f32 0\n%6 = max %4 %5\n%7 = const f32 -0.5\n%8 = mul %6 %7\n"
        "%9 = const f32 0.25\n%10 = add %8 %9\n",
        10,
        lambda v, r: np.maximum(v, 0) * -0.5 + 0.25,
    ),
}


def check(rows: int, depth: int, columns: int, end: str, lead: int | None = None) -> None:
    """The rows are `lead` apart, which is `depth` unless it is given."""
    lead = depth if lead is None else lead
    body, last, compute = ENDS[end]
    close = 3e-5 * max(1, depth / 48) ** 0.5
    residual = f"input r f32[{rows}, {columns}] row\n" if " r (" in body else ""
    text = f"""tile_program 1
input x f32[{rows}, {lead}] row
input w f32[{columns}, {depth}] row
input b f32[{columns}] row
{residual}output y f32[{rows}, {columns}] row
stage i: {rows}, j: {columns}, k: {depth}
%0 = load x (i, k)
%1 = load w (j, k)
%2 = dot %0 %1 over k
%3 = load b (j)
%4 = add %2 %3
{body}store y (i, j) %{last}
"""
    x = RNG.standard_normal((rows, lead)).astype(np.float32)
    w = RNG.standard_normal((columns, depth)).astype(np.float32)
    b = RNG.standard_normal(columns).astype(np.float32)
    r = RNG.standard_normal((rows, columns)).astype(np.float32)
    sums = x[:, :depth].astype(np.float64) @ w.astype(np.float64).T + b
    want = compute(sums, r)
    inputs = [x, w, b, r] if residual else [x, w, b]
    for isa in native_lib.isas():
        (got,) = native_lib.server(isa).run(text, inputs, 1, (1, 2))
        np.testing.assert_allclose(got, want, rtol=2e-5, atol=close, err_msg=f"{isa} {end}")


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize(
    "rows,depth,columns",
    [
        (64, 16, 96),
        (55, 24, 72),
        (23, 7, 48),
        (96, 32, 16),
        (95, 17, 24),
        (13, 1, 40),
        (30, 48, 33),
        (57, 130, 40),
        (29, 700, 72),
        (26, 1203, 33),
    ],
)
def test_ends(rows, depth, columns, end):
    check(rows, depth, columns, end)


@pytest.mark.parametrize("depth", [8, 15, 40, 47, 48, 49, 64, 65])
@pytest.mark.parametrize("rows", [3, 8, 12, 25, 300])
def test_sizes(rows, depth):
    check(rows, depth, 56, "clamp")


@pytest.mark.parametrize("depth,lead", [(16, 20), (100, 101), (900, 1024)])
def test_rows_apart(depth, lead):
    check(40, depth, 48, "residual_clamp", lead=lead)


@pytest.mark.parametrize("depth", [16, 100, 900])
def test_rows_that_jump_at_the_end_of_a_line(depth):
    x = RNG.standard_normal((5, 11, depth)).astype(np.float32)
    w = RNG.standard_normal((48, depth)).astype(np.float32)
    text = f"""tile_program 1
input x f32[5, 11, {depth}] row
input w f32[48, {depth}] row
output y f32[5, 9, 48] row
stage i: 5, m: 9, j: 48, k: {depth}
%0 = load x (i, m + 1, k)
%1 = load w (j, k)
%2 = dot %0 %1 over k
store y (i, m, j) %2
"""
    want = np.einsum("imk,jk->imj", x[:, 1:10].astype(np.float64), w)
    for isa in native_lib.isas():
        (got,) = native_lib.server(isa).run(text, [x, w], 1, (1,))
        np.testing.assert_allclose(got, want, rtol=2e-5, atol=1.2e-5 * depth**0.5, err_msg=isa)
