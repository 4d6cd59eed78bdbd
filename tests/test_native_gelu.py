"""GELU behind products, against float64: whole range, infinities, NaN, factors of either sign."""

from __future__ import annotations

import math

import native_lib
import numpy as np
import pytest

RNG = np.random.default_rng(78)
SPECIAL = [np.nan, np.inf, 0.0, -0.0, 3e37, -3e37, 1e4, -1e4, 5.8, -5.8, 1e-30, -1e-30]
VALUES = np.concatenate([SPECIAL, np.linspace(-9, 9, 331), np.linspace(-2, 2, 249)])
VALUES = VALUES.astype(np.float32)


def gelu(x: np.ndarray, half: float, inner: float) -> np.ndarray:
    x = x.astype(np.float64)
    with np.errstate(invalid="ignore"):
        return x * half * (1 + np.vectorize(math.erf)(x * inner))


@pytest.mark.parametrize("half,inner", [(0.5, 0.70710677), (-0.5, 0.70710677), (2.0, -0.25)])
@pytest.mark.parametrize("rows,columns", [(1, 48), (3, 24), (9, 16), (37, 3), (592, 40)])
def test_product(rows, columns, half, inner):
    x = VALUES[:rows].reshape(rows, 1)
    w = RNG.choice(np.float32([-1, 0.5, 1]), (1, columns))
    text = f"""tile_program 1
input x f32[{rows}, 1] row
input w f32[1, {columns}] row
output y f32[{rows}, {columns}] row
stage i: {rows}, j: {columns}, k: 1
%0 = load x (i, k)
%1 = load w (k, j)
%2 = dot %0 %1 over k
%3 = const f32 {half}
%4 = mul %2 %3
%5 = const f32 {inner}
%6 = mul %2 %5
%7 = erf %6
%8 = const f32 1
%9 = add %7 %8
%10 = mul %4 %9
store y (i, j) %10
"""
    sums = x * w
    want = gelu(sums, half, inner)
    # What erf is off by, times its factor; beyond 4.2 it is -1 or 1.
    factor = np.minimum(np.abs(sums * np.float64(half)), 100)
    bound = factor * np.where(np.abs(sums * np.float64(inner)) < 4.2, 4e-7, 1e-8)
    bound = np.nan_to_num(bound + 4 * np.spacing(np.abs(want).astype(np.float32)))
    for isa in native_lib.isas():
        for constant in ((), (1,)):
            (got,) = native_lib.server(isa).run(text, [x, w], 1, constant)
            assert np.array_equal(np.isnan(got), np.isnan(want)), isa
            near = np.isclose(got, want, rtol=0, atol=bound, equal_nan=True)
            assert (near | (got == want)).all(), (isa, sums[~near][:4], got[~near][:4])
