"""Elements that a copy repeats (Resize by nearest neighbours) against NumPy, on every ISA."""

from __future__ import annotations

import native_lib
import numpy as np
import pytest

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
