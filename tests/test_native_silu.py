"""SiLU wherever kernels compute it, against float64: whole range, infinities, NaN, on every ISA."""

from __future__ import annotations

import native_lib
import numpy as np
import pytest

RNG = np.random.default_rng(77)
SPECIAL = [
    np.nan,
    np.inf,
    -np.inf,
    0.0,
    -0.0,
    1e30,
    -1e30,
    100,
    -100,
    88.8,
    -88.8,
    88.7,
    -88.7,
    1e-30,
]
VALUES = np.concatenate([SPECIAL, np.linspace(-90, 90, 331), np.linspace(-6, 6, 247)]).astype(
    np.float32
)


def silu(x: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore", invalid="ignore"):
        return x * (1 / (1 + np.exp(-x.astype(np.float64))))


# The exponential's argument is rounded, so that its error grows with x; where the sigmoid is
# denormal it may be 0.
def check(text: str, x: np.ndarray, want: np.ndarray, weights: np.ndarray | None = None) -> None:
    inputs = [x] if weights is None else [x, weights]
    for isa in native_lib.isas():
        for constant in [()] if weights is None else [(), (1,)]:
            (got,) = native_lib.server(isa).run(text, inputs, 1, constant)
            sure = np.isfinite(want)
            np.testing.assert_array_equal(got[~sure], want[~sure], err_msg=isa)
            size = np.abs(np.broadcast_to(x, want.shape)[sure])
            error = np.abs(got[sure] - want[sure])
            assert (error <= (5e-7 + 6e-8 * size) * np.abs(want[sure]) + 5e-37).all(), isa


@pytest.mark.parametrize("count", [1, 7, 17, VALUES.size])
def test_pass(count):
    x = VALUES[:count]
    text = f"""tile_program 1
input x f32[{count}] row
output y f32[{count}] row
stage i: {count}
%0 = load x (i)
%1 = sigmoid %0
%2 = mul %0 %1
store y (i) %2
"""
    check(text, x, silu(x))


@pytest.mark.parametrize(
    "rows,columns", [(1, 48), (3, 24), (9, 16), (50, 48), (50, 100), (37, 3), (592, 40)]
)
def test_product(rows, columns):
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
%3 = sigmoid %2
%4 = mul %2 %3
store y (i, j) %4
"""
    check(text, x, silu(x * w), w)


@pytest.mark.parametrize("pixels,channels", [(9, 16), (14, 40), (37, 16)])
def test_depthwise(pixels, channels):
    x = np.resize(VALUES, (pixels, channels))
    text = f"""tile_program 1
input x f32[{pixels}, {channels}] row
input w f32[{channels}, 1] row
output y f32[{pixels}, {channels}] row
stage i: {pixels}, c: {channels}, k: 1
%0 = load x (i + k, c)
%1 = load w (c, k)
%2 = dot %0 %1 over k
%3 = sigmoid %2
%4 = mul %2 %3
store y (i, c) %4
"""
    w = RNG.choice(np.float32([-1, 0.5, 1]), (channels, 1))
    check(text, x, silu(x * w[:, 0]), w)
