"""Resize by nearest neighbours, which repeats elements, and linear, whose indices are computed."""

from __future__ import annotations

import re

import native_lib
import numpy as np
import pytest

from onnx_fusion.program import interpret, parse_program

RNG = np.random.default_rng(23)


@pytest.mark.parametrize("last", [(False, False), (True, True), (False, True), (True, False)])
@pytest.mark.parametrize("factors", [(2, 2), (1, 2), (4, 4), (3, 5), (2, 1)])
def test_images_grow_by_whole_factors(factors, last):
    order = "order(0, 2, 3, 1)"
    layouts = [order if f else "row" for f in last]
    for dtype, name in ((np.float32, "f32"), (np.float64, "f64"), (np.uint8, "u8")):
        for c, h, w in ((3, 5, 7), (16, 9, 33), (65, 1, 4), (4, 40, 70)):
            x = RNG.integers(0, 200, (2, c, h, w)).astype(dtype)
            want = x.repeat(factors[0], 2).repeat(factors[1], 3)
            text = f"""tile_program 1
input x {name}[2, {c}, {h}, {w}] {layouts[0]}
output y {name}[2, {c}, {h * factors[0]}, {w * factors[1]}] {layouts[1]}
stage n: 2, c: {c}, p: {h}, a: {factors[0]}, q: {w}, b: {factors[1]}
%0 = load x (n, c, p, q)
store y (n, c, {factors[0]} * p + a, {factors[1]} * q + b) %0
"""
            if last[0]:
                x = np.ascontiguousarray(np.moveaxis(x, 1, -1))
            if last[1]:
                want = np.moveaxis(want, 1, -1)
            for isa in native_lib.isas():
                for threads in (1, 3):
                    (got,) = native_lib.server(isa).run(text, [x], threads)
                    np.testing.assert_array_equal(got, want)


LINEAR = """tile_program 1
input x f32[2, C, H, W] LAYOUT
output y f32[2, C, F * H, F * W] LAYOUT
stage n: 2, c: C, p: H, a: F, q: W, b: F
%0 = load x (n, c, max((a + D) // F + p - 1, 0), max((b + D) // F + q - 1, 0))
%1 = load x (n, c, max((a + D) // F + p - 1, 0), min((b + D) // F + q, W - 1))
%2 = index 2 * ((b + D) % F) + 1
%3 = cast f32 %2
%4 = const f32 HALF
%5 = div %3 %4
%6 = sub %1 %0
%7 = mul %6 %5
%8 = add %0 %7
%9 = load x (n, c, min((a + D) // F + p, H - 1), min((b + D) // F + q, W - 1))
%10 = sub %9 %8
%11 = index (a + D) % F
%12 = cast f32 %11
%13 = mul %10 %12
store y (n, c, F * p + a, F * q + b) %13
"""


@pytest.mark.parametrize("layout", ["row", "order(0, 2, 3, 1)"])
@pytest.mark.parametrize("factor", [2, 3, 4, 5])
def test_indices_that_are_linear_between_borders(factor, layout):
    for c, h, w in ((5, 9, 12), (24, 5, 6), (1, 2, 3), (40, 4, 1)):
        text = LINEAR.replace("LAYOUT", layout)
        sizes = (("C", c), ("H", h), ("W", w), ("F", factor), ("D", factor // 2))
        text = text.replace("HALF", str(2 * factor))
        for name, size in sizes:
            text = re.sub(rf"\b{name}\b", str(size), text)
        shape = (2, c, h, w) if layout == "row" else (2, h, w, c)
        x = RNG.uniform(-1, 1, shape).astype(np.float32)
        (want,) = interpret(parse_program(text), [x])
        for isa in native_lib.isas():
            for threads in (1, 3):
                (got,) = native_lib.server(isa).run(text, [x], threads)
                np.testing.assert_allclose(got, want, atol=2e-6)


def test_tables_of_indices_hold_every_position():
    text = """tile_program 1
input x f32[3, 40, 16] row
output y f32[3, 61, 16] row
stage n: 3, p: 61, c: 16
%0 = load x (n, 2 * p // 3 % 40, c)
%1 = index 7 * p % 11 - 3
%2 = cast f32 %1
%3 = mul %0 %2
store y (n, p, c) %3
"""
    x = RNG.uniform(-1, 1, (3, 40, 16)).astype(np.float32)
    (want,) = interpret(parse_program(text), [x])
    for isa in native_lib.isas():
        np.testing.assert_array_equal(native_lib.server(isa).run(text, [x])[0], want)
