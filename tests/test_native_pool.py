"""Pooling in the native library against NumPy: overlaps, borders, every layout and ISA."""

from __future__ import annotations

import itertools

import native_lib
import numpy as np
import pytest

from onnx_fusion.program import interpret, parse_program

RNG = np.random.default_rng(22)
NOTHING = {"sum": 0.0, "max": -np.inf, "min": np.inf}
JOIN = {"sum": np.sum, "max": np.max, "min": np.min}


def pool(x, kind, kernel, strides, pads, dilations):
    """Return the pooled array, outside taken as nothing."""
    rank = len(kernel)
    x = np.pad(x, [(0, 0), (0, 0), *pads], constant_values=NOTHING[kind])
    outs = [
        (x.shape[2 + d] - dilations[d] * (kernel[d] - 1) - 1) // strides[d] + 1 for d in range(rank)
    ]
    parts = [
        x[(..., *(slice(t * d, t * d + (o - 1) * s + 1, s)
                  for t, d, o, s in zip(taps, dilations, outs, strides, strict=True)))]
        for taps in itertools.product(*map(range, kernel))
    ]  # fmt: skip
    return JOIN[kind](np.stack(parts), axis=0)


def program(shape, out, kind, kernel, strides, pads, dilations, layouts, end):
    rank = len(kernel)
    order = f"order(0, {', '.join(str(d + 2) for d in range(rank))}, 1)"
    first, second = (order if last else "row" for last in layouts)
    at = [f"{strides[d]} * p{d} + {dilations[d]} * r{d} - {pads[d][0]}" for d in range(rank)]
    taps, places = (", ".join(f"{letter}{d}" for d in range(rank)) for letter in "rp")
    letters = [f"p{d}: {o}" for d, o in enumerate(out[2:])]
    letters += [f"r{d}: {k}" for d, k in enumerate(kernel)]
    fill = str(NOTHING[kind]).replace("0.0", "0")
    last = sum(line.startswith("%") for line in end.splitlines()) + 1
    return f"""tile_program 1
input x f32{list(shape)} {first}
output y f32{list(out)} {second}
stage n: {shape[0]}, c: {shape[1]}, {", ".join(letters)}
%0 = load x (n, c, {", ".join(at)}) else {fill}
%1 = reduce_{kind} %0 over {taps}
{end}store y (n, c, {places}) %{last}
"""


def check(shape, kind, kernel, strides, pads, dilations=None, layouts=(True, True), end="", x=None):
    dilations = dilations or (1,) * len(kernel)
    if x is None:
        x = RNG.uniform(-1, 1, shape).astype(np.float32)
    want = pool(x.astype(np.float64), kind, kernel, strides, pads, dilations)
    text = program(shape, want.shape, kind, kernel, strides, pads, dilations, layouts, end)
    own = np.ascontiguousarray(np.moveaxis(x, 1, -1)) if layouts[0] else x
    if end:
        (want,) = interpret(parse_program(text), [own])
    elif layouts[1]:
        want = np.moveaxis(want, 1, -1)
    for isa in native_lib.isas():
        for threads in (1, 3):
            (got,) = native_lib.server(isa).run(text, [own], threads)
            np.testing.assert_allclose(got, want, rtol=1e-5, atol=2e-6, err_msg=isa)


LAYOUTS = list(itertools.product((False, True), repeat=2))


@pytest.mark.parametrize("layouts", LAYOUTS)
@pytest.mark.parametrize(
    "kind,kernel,strides,pads,dilations",
    [
        ("max", (3, 3), (2, 2), ((1, 1), (1, 1)), None),
        ("max", (3, 3), (2, 2), ((0, 1), (0, 1)), None),
        ("max", (2, 2), (2, 2), ((0, 0), (0, 0)), None),
        ("max", (2, 2), (1, 1), ((0, 1), (0, 1)), None),
        ("max", (5, 5), (1, 1), ((2, 2), (2, 2)), None),
        ("max", (13, 13), (1, 1), ((6, 6), (6, 6)), None),
        ("max", (3, 3), (1, 1), ((2, 2), (2, 2)), (2, 2)),
        ("max", (3, 3), (3, 2), ((1, 0), (4, 3)), None),
        ("min", (3, 2), (1, 2), ((1, 1), (0, 0)), None),
        ("sum", (3, 3), (1, 1), ((1, 1), (1, 1)), None),
        ("sum", (1, 5), (1, 1), ((0, 0), (2, 2)), None),
        ("sum", (5, 1), (1, 1), ((2, 2), (0, 0)), None),
        ("sum", (4, 3), (1, 3), ((3, 3), (1, 1)), None),
    ],
)
def test_windows(kind, kernel, strides, pads, dilations, layouts):
    for channels in (3, 8, 17):
        check((2, channels, 12, 11), kind, kernel, strides, pads, dilations, layouts)


@pytest.mark.parametrize("layouts", LAYOUTS)
def test_every_width(layouts):
    for width in (1, 2, 3, 7, 8, 9, 15, 16, 17, 33, 70):
        for step in (1, 2):
            check((1, 9, 4, width), "max", (3, 3), (step, step), ((1, 1), (1, 1)), None, layouts)


@pytest.mark.parametrize("kind", JOIN)
def test_windows_two_wide_side_by_side(kind):
    for width in (2, 3, 7, 8, 10, 15, 16, 17, 24, 31, 32, 33, 46, 70):
        for height in (1, 2, 3):
            pads = ((0, 0), (0, 0))
            check((2, 5, 8, width), kind, (height, 2), (2, 2), pads, None, (False, False))
    check((3, 6, 21), kind, (2,), (2,), ((0, 0),), None, (False, False))
    for width in (10, 28, 36):
        x = RNG.uniform(-1, 1, (1, 3, 8, width)).astype(np.float32)
        x[0, 1, 4, 5] = x[0, 2, 0, width // 2 + 1] = np.nan
        x[0, 0, 7, width - 1] = np.inf
        check(x.shape, kind, (2, 2), (2, 2), ((0, 0), (0, 0)), None, (False, False), x=x)


@pytest.mark.parametrize("kind", JOIN)
def test_whole_planes(kind):
    pads = ((0, 0), (0, 0))
    for channels in (1, 3, 5, 8, 9, 12, 16, 23, 33, 48):
        for kernel in ((5, 100), (3, 1), (2, 7)):
            x = RNG.uniform(0.1, 1, (2, channels, *kernel)).astype(np.float32)
            check(x.shape, kind, kernel, (1, 1), pads, None, (True, False), x=x)
    x = RNG.uniform(-1, 1, (1, 12, 9, 8)).astype(np.float32)
    x[0, 3, 4, 5] = x[0, 11, 0, 0] = np.nan
    check(x.shape, kind, (9, 8), (1, 1), pads, None, (True, False), x=x)


@pytest.mark.parametrize("layouts", LAYOUTS)
def test_other_ranks(layouts):
    check((2, 9, 40), "max", (3,), (2,), ((1, 1),), None, layouts)
    check((2, 9, 5, 6, 7), "sum", (3, 3, 3), (1, 2, 1), ((1, 1),) * 3, None, layouts)
    check((2, 9, 5, 6, 7), "max", (1, 3, 3), (1, 2, 2), ((0, 0), (1, 1), (1, 1)), None, layouts)


def test_rows_that_do_not_fit_the_buffer_go_by_blocks_of_channels():
    check((1, 700, 3, 130), "max", (3, 3), (1, 1), ((1, 1), (1, 1)))
    check((1, 700, 3, 130), "sum", (3, 3), (2, 2), ((1, 1), (1, 1)), end="%2 = neg %1\n")


@pytest.mark.parametrize("layouts", LAYOUTS)
def test_what_follows_a_window(layouts):
    inside = "max(0, 1 - p0) * max(0, 1 - p1) - 3 * max(0, 1 - p0) - 3 * max(0, 1 - p1) + 9"
    for end in (
        "%2 = const f32 9\n%3 = div %1 %2\n",
        "%2 = const f32 0\n%3 = max %1 %2\n",
        f"%2 = index {inside}\n%3 = cast f32 %2\n%4 = div %1 %3\n",
        "%2 = exp %1\n%3 = mul %2 %1\n",
    ):
        for shape in ((1, 19, 9, 9), (2, 8, 5, 40)):
            check(shape, "sum", (3, 3), (1, 1), ((1, 1), (1, 1)), None, layouts, end)


@pytest.mark.parametrize("layouts", LAYOUTS)
@pytest.mark.parametrize("after", ["", "%8 = exp %7\n%9 = sub %8 %7\n"])
def test_sums_are_divided_by_the_taps_inside(layouts, after):
    for height, width, step in ((9, 9, 1), (5, 40, 1), (12, 21, 2), (7, 7, 1), (1, 3, 2)):
        counts = [
            f"min(2, {n} - {step} * p{d}) - max(0, 1 - {step} * p{d}) + 1"
            for d, n in enumerate((height, width))
        ]
        end = (
            f"%2 = index {counts[0]}\n%3 = cast f32 %2\n%4 = index {counts[1]}\n%5 = cast f32 %4\n"
            "%6 = mul %3 %5\n%7 = div %1 %6\n"
        ) + after
        shape, pads = (2, 19, height, width), ((1, 1), (1, 1))
        check(shape, "sum", (3, 3), (step, step), pads, None, layouts, end)
    check((1, 9, 12, 22), "sum", (2, 2), (2, 2), ((0, 0), (0, 0)), None, layouts,
          "%2 = const f32 4\n%3 = div %1 %2\n")  # fmt: skip


@pytest.mark.parametrize("layouts", [(False, False), (True, True)])
def test_infinities_are_numbers_like_others(layouts):
    x = RNG.uniform(-1, 1, (1, 19, 9, 20)).astype(np.float32)
    x[0, 3, 4, 5] = x[0, 5] = -np.inf
    x[0, 7, 0, 19] = np.inf
    for kind in ("max", "min"):
        for step in (1, 2):
            check(x.shape, kind, (3, 3), (step, step), ((1, 1), (1, 1)), None, layouts, x=x)


@pytest.mark.parametrize("layouts", [(False, False), (True, True)])
def test_nan_stays_in_the_windows_that_hold_it(layouts):
    x = RNG.uniform(-1, 1, (1, 19, 9, 20)).astype(np.float32)
    x[0, 3, 4, 5] = x[0, 18, 0, 19] = np.nan
    for kind in ("max", "min", "sum"):
        check(x.shape, kind, (3, 3), (1, 1), ((1, 1), (1, 1)), None, layouts, x=x)
        check(x.shape, kind, (3, 3), (2, 2), ((1, 1), (1, 1)), None, layouts, x=x)


def test_a_border_that_is_not_nothing_is_joined_too():
    x = RNG.uniform(-1, 1, (1, 9, 6, 16)).astype(np.float32)
    text = program((1, 16, 9, 6), (1, 16, 9, 6), "max", (3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1),
                   (True, True), "")  # fmt: skip
    for fill in ("0.5", "-1.5"):
        own = text.replace("-inf", fill)
        (want,) = interpret(parse_program(own), [x])
        for isa in native_lib.isas():
            np.testing.assert_array_equal(native_lib.server(isa).run(own, [x])[0], want)
