"""Convolution in groups of few channels on channels-last images against float64, on every ISA.

Extents lie around those of the tiles (1 to 14 outputs), of vectors (4 to 16 channels) and of
blocks.
"""

from __future__ import annotations

import native_lib
import numpy as np
import pytest
from test_native_contract import convolve

RNG = np.random.default_rng(5)

CASES = {
    # x, channels made, groups, window, steps, dilations, pads before and behind
    "fours": ((2, 32, 9, 14), 32, 8, (3, 3), (1, 1), (1, 1), (1, 1, 1, 1)),
    "fours, last vector half full": ((1, 24, 5, 15), 24, 6, (3, 3), (1, 1), (1, 1), (1, 1, 1, 1)),
    "fours, several blocks": ((1, 148, 6, 7), 148, 37, (3, 3), (1, 1), (1, 1), (1, 1, 1, 1)),
    "pairs": ((1, 26, 8, 9), 26, 13, (3, 3), (1, 1), (1, 1), (1, 1, 1, 1)),
    "two pairs": ((2, 4, 6, 5), 4, 2, (3, 3), (1, 1), (1, 1), (1, 1, 1, 1)),
    "eights": ((1, 40, 7, 28), 40, 5, (3, 3), (1, 1), (1, 1), (1, 1, 1, 1)),
    "eights by 2": ((1, 40, 15, 17), 40, 5, (3, 3), (2, 2), (1, 1), (1, 1, 1, 1)),
    "fours by 2 and by 1": ((1, 16, 11, 10), 16, 4, (3, 3), (1, 2), (1, 1), (0, 0, 2, 1)),
    "sixteens": ((1, 48, 7, 7), 48, 3, (3, 3), (1, 1), (1, 1), (1, 1, 1, 1)),
    "sixteens by 2": ((2, 32, 9, 30), 32, 2, (3, 3), (2, 2), (1, 1), (1, 1, 1, 1)),
    "thirty-twos": ((1, 96, 5, 8), 96, 3, (3, 3), (1, 1), (1, 1), (1, 1, 1, 1)),
    "thirty-twos by 2": ((2, 64, 9, 12), 64, 2, (3, 3), (2, 2), (1, 1), (1, 1, 1, 1)),
    "twenty-fours": ((1, 72, 6, 9), 72, 3, (3, 3), (1, 1), (1, 1), (1, 1, 1, 1)),
    "twenty-fours by 2": ((2, 48, 7, 15), 48, 2, (3, 3), (2, 2), (1, 1), (1, 1, 1, 1)),
    "more made than read": ((1, 24, 6, 9), 64, 4, (3, 3), (1, 1), (1, 1), (1, 1, 1, 1)),
    "fewer made than read": ((1, 60, 6, 9), 32, 4, (3, 3), (1, 1), (1, 1), (1, 1, 1, 1)),
    "valid": ((1, 32, 6, 16), 32, 8, (3, 3), (1, 1), (1, 1), (0, 0, 0, 0)),
    "more padding than image": ((1, 16, 2, 1), 16, 4, (3, 3), (1, 1), (1, 1), (2, 2, 2, 2)),
    "one output": ((1, 16, 3, 3), 16, 4, (3, 3), (1, 1), (1, 1), (0, 0, 0, 0)),
    "one column": ((1, 16, 6, 3), 16, 4, (3, 3), (1, 1), (1, 1), (1, 0, 1, 0)),
    "5 rows of 3": ((1, 16, 9, 8), 16, 4, (5, 3), (1, 1), (1, 1), (2, 1, 2, 1)),
    "1 row of 3": ((1, 16, 4, 8), 16, 4, (1, 3), (1, 1), (1, 1), (0, 1, 0, 1)),
    "3 wide, 5 rows apart": ((1, 16, 16, 8), 16, 4, (3, 3), (1, 1), (5, 1), (5, 1, 5, 1)),
    "3 rows, 3 by 3 in all": ((1, 16, 10, 9), 16, 4, (3, 3), (3, 1), (2, 1), (1, 1, 1, 1)),
    "a line": ((2, 32, 29), 32, 8, (3,), (1,), (1,), (1, 1)),
    "dilated columns": ((1, 16, 9, 9), 16, 4, (3, 3), (1, 1), (2, 2), (2, 2, 2, 2)),
    "5 by 5": ((1, 16, 9, 9), 16, 4, (5, 5), (1, 1), (1, 1), (2, 2, 2, 2)),
    "threes": ((2, 48, 9, 14), 48, 16, (3, 3), (1, 1), (1, 1), (1, 1, 1, 1)),
    "threes, vectors past the pixel": ((1, 21, 6, 11), 21, 7, (3, 3), (1, 1), (1, 1), (1, 1, 1, 1)),
    "threes by 2": ((1, 39, 11, 13), 39, 13, (3, 3), (2, 2), (1, 1), (1, 1, 1, 1)),
    "fives": ((1, 35, 6, 10), 35, 7, (3, 3), (1, 1), (1, 1), (1, 1, 1, 1)),
    "sixes, several blocks": ((1, 138, 5, 9), 138, 23, (3, 3), (1, 1), (1, 1), (1, 1, 1, 1)),
    "twelves": ((1, 36, 5, 9), 36, 3, (3, 3), (1, 1), (1, 1), (1, 1, 1, 1)),
    "4 read, 8 made": ((1, 20, 6, 13), 40, 5, (3, 3), (1, 1), (1, 1), (1, 1, 1, 1)),
    "4 read, 1 made": ((1, 76, 6, 13), 19, 19, (3, 3), (1, 1), (1, 1), (1, 1, 1, 1)),
    "6 read, 1 made, too far apart": ((1, 96, 5, 6), 16, 16, (3, 3), (1, 1), (1, 1), (1, 1, 1, 1)),
    "2 read, 3 made": ((1, 22, 6, 5), 33, 11, (3, 3), (1, 1), (1, 1), (1, 1, 1, 1)),
    "5 read, 3 made by 7 by 5": ((1, 25, 9, 8), 15, 5, (7, 5), (1, 1), (1, 1), (3, 2, 3, 2)),
    "eights, 5 by 5": ((2, 24, 6, 28), 24, 3, (5, 5), (1, 1), (1, 1), (2, 2, 2, 2)),
    "sixteens, 7 by 7": ((1, 32, 8, 13), 32, 2, (7, 7), (1, 1), (1, 1), (3, 3, 3, 3)),
    "sixteens, 5 by 5 by 2": ((1, 48, 11, 13), 48, 3, (5, 5), (2, 2), (1, 1), (2, 2, 2, 2)),
    "thirty-twos, 4 by 4": ((1, 64, 7, 9), 64, 2, (4, 4), (1, 1), (1, 1), (1, 1, 2, 2)),
    "thirty-twos of 6, 1 by 5": ((1, 12, 4, 9), 64, 2, (1, 5), (1, 1), (1, 1), (0, 2, 0, 2)),
    "fours, 7 rows of 1": ((1, 16, 9, 8), 16, 4, (7, 1), (1, 1), (1, 1), (3, 0, 3, 0)),
    "threes, a line of 9": ((2, 24, 31), 24, 8, (9,), (1,), (1,), (4, 4)),
    "threes apart by 3": ((1, 24, 9, 10), 24, 8, (3, 3), (1, 1), (3, 3), (3, 3, 3, 3)),
    "sixteens apart by 4": ((1, 32, 9, 10), 32, 2, (3, 3), (1, 1), (4, 4), (4, 4, 4, 4)),
    "threes, padding alone": ((1, 24, 2, 2), 24, 8, (3, 3), (1, 1), (9, 9), (9, 9, 9, 9)),
    "in steps of 3": ((1, 24, 10, 11), 24, 8, (3, 3), (3, 3), (1, 1), (1, 1, 1, 1)),
}  # fmt: skip
ENDS = {
    "bias and relu": ("%3 = load b (g * {0} + o)\n%4 = add %2 %3\n%5 = const f32 0\n"
                      "%6 = max %4 %5", 6,
                      lambda v, b, r: np.maximum(v + b, 0)),
    "silu": ("%3 = sigmoid %2\n%4 = mul %2 %3", 4, lambda v, b, r: v / (1 + np.exp(-v))),
    "residual": ("%3 = load r (n, g * {0} + o, {1})\n%4 = add %2 %3", 4, lambda v, b, r: v + r),
    "a shift and a clamp": ("%3 = const f32 0.5\n%4 = add %2 %3\n%5 = const f32 -0.25\n"
                            "%6 = max %4 %5\n%7 = const f32 0.75\n%8 = min %6 %7", 8,
                            lambda v, b, r: np.clip(v + 0.5, -0.25, 0.75)),
    "nothing": ("", 2, lambda v, b, r: v),
}  # fmt: skip


def check(name: str, end: str, layout: str = "last") -> None:
    shape, filters, groups, kernel, steps, apart, pads = CASES[name]
    axes, reads, makes = range(len(kernel)), shape[1] // groups, filters // groups
    x = RNG.standard_normal(shape).astype(np.float32)
    w = (RNG.standard_normal((filters, reads, *kernel)) / 4).astype(np.float32)
    b = RNG.standard_normal(filters).astype(np.float32)
    around = [(pads[d], pads[d + len(kernel)]) for d in axes]
    v = convolve(
        np.pad(x, [(0, 0), (0, 0), *around]), w, steps, [(0, 0)] * len(kernel), apart, groups
    )
    r = RNG.standard_normal(v.shape).astype(np.float32)
    lines, last, meaning = ENDS[end]
    want = meaning(v, b.astype(np.float64).reshape(-1, *[1] * len(kernel)), r.astype(np.float64))
    order = f"order(0, {', '.join(str(d + 2) for d in axes)}, 1)"
    places, taps = (", ".join(f"{letter}{d}" for d in axes) for letter in "pt")
    letters = [f"p{d}: {e}" for d, e in enumerate(v.shape[2:])] + [
        f"t{d}: {k}" for d, k in enumerate(kernel)
    ]
    at = ", ".join(f"{steps[d]} * p{d} + {apart[d]} * t{d} - {pads[d]}" for d in axes)
    guard = " else 0" if any(pads) else ""
    text = f"""tile_program 1
input x f32{list(shape)} {order}
input w f32{list(w.shape)} row
input b f32[{filters}] row
input r f32{list(v.shape)} {order}
output y f32{list(v.shape)} {order if layout == "last" else "row"}
stage n: {shape[0]}, g: {groups}, o: {makes}, {", ".join(letters)}, c: {reads}
%0 = load x (n, g * {reads} + c, {at}){guard}
%1 = load w (g * {makes} + o, c, {taps})
%2 = dot %0 %1 over c, {taps}
{lines.format(makes, places)}
store y (n, g * {makes} + o, {places}) %{last}
""".replace("\n\n", "\n")
    inputs = [
        np.ascontiguousarray(np.moveaxis(x, 1, -1)),
        w,
        b,
        np.ascontiguousarray(np.moveaxis(r, 1, -1)),
    ]
    want = np.moveaxis(want, 1, -1) if layout == "last" else want
    scale = max(1.0, float(np.abs(want).max()))
    for isa in native_lib.isas():
        for threads, constant in ((1, (1, 2)), (3, (1,)), (2, ())):
            (got,) = native_lib.server(isa).run(text, inputs, threads, constant)
            np.testing.assert_allclose(got, want, atol=4e-6 * scale, rtol=0, err_msg=isa)


@pytest.mark.parametrize("name", CASES)
def test_groups(name):
    check(name, "bias and relu")


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize(
    "name",
    [
        "fours, last vector half full",
        "eights by 2",
        "sixteens",
        "twenty-fours",
        "pairs",
        "threes",
        "4 read, 1 made",
    ],
)
def test_what_follows_the_sum(name, end):
    check(name, end)


@pytest.mark.parametrize("name", ["fours", "sixteens by 2", "fives", "sixteens, 7 by 7"])
def test_results_in_rows(name):
    check(name, "residual", "row")


def test_what_is_outside_may_count():
    """A window whose padding is not zero adds it."""
    text = """tile_program 1
input x f32[1, 16, 4, 6] order(0, 2, 3, 1)
input w f32[16, 4, 3, 3] row
output y f32[1, 16, 4, 6] order(0, 2, 3, 1)
stage g: 4, o: 4, p: 4, q: 6, c: 4, r: 3, s: 3
%0 = load x (0, g * 4 + c, p + r - 1, q + s - 1) else 2
%1 = load w (g * 4 + o, c, r, s)
%2 = dot %0 %1 over c, r, s
store y (0, g * 4 + o, p, q) %2
"""
    x = RNG.standard_normal((1, 16, 4, 6)).astype(np.float32)
    w = RNG.standard_normal((16, 4, 3, 3)).astype(np.float32)
    padded = np.pad(x, [(0, 0), (0, 0), (1, 1), (1, 1)], constant_values=2)
    want = convolve(padded, w, (1, 1), [(0, 0)] * 2, (1, 1), 4)
    for isa in native_lib.isas():
        inputs = [np.ascontiguousarray(np.moveaxis(x, 1, -1)), w]
        (got,) = native_lib.server(isa).run(text, inputs, 1, (1,))
        np.testing.assert_allclose(got, np.moveaxis(want, 1, -1), atol=3e-5, rtol=0, err_msg=isa)


FAR = [(2**20, 7), (2**31, 2**31), (2**32 - 1, 2**32 - 8), (2**36, 2**36)]


@pytest.mark.parametrize("apart", FAR)
def test_taps_further_apart_than_lines_could_be(apart):
    """Whose product is a small number modulo 2^64."""
    text = f"""tile_program 1
input x f32[1, 16, 2, 8] order(0, 2, 3, 1)
input w f32[16, 4, 2, 2] row
output y f32[1, 16, 2, 8] order(0, 2, 3, 1)
stage n: 1, g: 4, o: 4, p: 2, q: 8, r: 2, s: 2, c: 4
%0 = load x (0, 4 * g + c, p + {apart[0]} * r, q + {apart[1]} * s) else 0
%1 = load w (4 * g + o, c, r, s)
%2 = dot %0 %1 over c, r, s
store y (0, 4 * g + o, p, q) %2
"""
    x, w = np.ones((1, 2, 8, 16), np.float32), np.ones((16, 4, 2, 2), np.float32)
    want = np.full((1, 2, 8, 16), 4, np.float32)
    want[:, :, 0] += 4 * (apart[1] == 7)  # the last column, seen from the first
    for isa in native_lib.isas():
        (got,) = native_lib.server(isa).run(text, [x, w], 1, (1,))
        np.testing.assert_array_equal(got, want, err_msg=isa)
