"""Contractions of an image times a number for each channel, against NumPy in float64, on every
ISA."""

from __future__ import annotations

import native_lib
import numpy as np
import pytest

RNG = np.random.default_rng(23)
ORDER = "order(0, 2, 3, 1)"


def check(
    c, size, o, gate="", constant=True, order=ORDER, swap=False, strict=False, batch=1, each=False
):
    """Run a 1x1 convolution of `size` x `size` pixels from c to o channels; `each` image has a gate
    of its own."""
    shape = (batch, c) if each else (c,)
    x, g = (RNG.uniform(-1, 1, s).astype(np.float32) for s in ((batch, c, size, size), shape))
    w = RNG.uniform(-1, 1, (o, c)).astype(np.float32)
    b = RNG.uniform(-1, 1, o).astype(np.float32)
    factor = 1 / (1 + np.exp(-g.astype(np.float64))) if gate else g.astype(np.float64)
    scaled = x * factor.reshape(-1, c, 1, 1)
    want = np.maximum(np.einsum("nchw,oc->nohw", scaled, w) + b.reshape(-1, 1, 1), 0)
    text = f"""tile_program 1{" strict" if strict else ""}
input x f32[{batch}, {c}, {size}, {size}] {ORDER}
input g f32[{f"{batch}, {c}" if each else c}] row
input w f32[{o}, {c}] row
input b f32[{o}] row
output y f32[{batch}, {o}, {size}, {size}] {order}
stage n: {batch}, o: {o}, p: {size}, q: {size}, c: {c}
%0 = load x (n, c, p, q)
%1 = load g ({"n, c" if each else "c"})
%2 = {gate or "max"} %1{"" if gate else " %1"}
%3 = mul {"%2 %0" if swap else "%0 %2"}
%4 = load w (o, c)
%5 = dot {"%4 %3" if swap else "%3 %4"} over c
%6 = load b (o)
%7 = add %5 %6
%8 = const f32 0
%9 = max %7 %8
store y (n, o, p, q) %9
"""
    if order == ORDER:
        want = np.moveaxis(want, 1, -1)
    inputs = [np.ascontiguousarray(np.moveaxis(x, 1, -1)), g, w, b]
    for isa in native_lib.isas():
        for threads in (1, 3):
            (got,) = native_lib.server(isa).run(text, inputs, threads, (2, 3) if constant else ())
            np.testing.assert_allclose(got, want, rtol=0, atol=1e-6 * c, err_msg=isa)


@pytest.mark.parametrize("o", [1, 7, 16, 24, 40, 97])
@pytest.mark.parametrize("c", [1, 5, 48, 385])
def test_channels(c, o):
    check(c, 9, o)


@pytest.mark.parametrize("batch", [1, 2, 3, 7])
@pytest.mark.parametrize("size", [2, 4, 9])
def test_gates_of_images(batch, size):
    check(24, size, 20, "sigmoid", batch=batch, each=True)
    check(24, size, 20, batch=batch, each=True, swap=True)
    check(20, size, 33, batch=batch, each=True, constant=False)
    check(385, size, 8, batch=batch, each=True, order="row")


@pytest.mark.parametrize("size", [1, 3, 4, 20])
def test_pixels(size):
    check(32, size, 24, swap=size == 4)


def test_sums_in_several_blocks_of_several_rows():
    check(900, 18, 50)


def test_a_computed_factor():
    check(32, 12, 24, gate="sigmoid")


def test_weights_that_are_not_constant():
    check(32, 12, 24, constant=False)


def test_rows_behind():
    check(32, 12, 24, order="row")


def test_strict_and_batches():
    check(32, 12, 24, strict=True)
    check(32, 12, 24, batch=3)
