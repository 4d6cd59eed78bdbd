"""A convolution of few channels and the pooling behind it, in one plan, against float64."""

from __future__ import annotations

import native_lib
import numpy as np
import pytest

LAST = "order(0, 2, 3, 1)"
RNG = np.random.default_rng(41)
EPILOGUES = {
    "none": ("", "", 2),
    "bias": ("input b f32[{o}] row\n", "%3 = load b (o)\n%4 = add %2 %3\n", 4),
    "relu": (
        "input b f32[{o}] row\n",
        "%3 = load b (o)\n%4 = add %2 %3\n%5 = const f32 0\n%6 = max %4 %5\n",
        6,
    ),
    "clip": (
        "input b f32[{o}] row\n",
        "%3 = load b (o)\n%4 = add %2 %3\n%5 = const f32 -0.5\n%6 = max %4 %5\n"
        "%7 = const f32 0.5\n%8 = min %6 %7\n",
        8,
    ),
    "slope": (
        "input b f32[{o}] row\n",
        "%3 = load b (o)\n%4 = const f32 0\n%5 = lt %2 %4\n%6 = mul %2 %3\n%7 = where %5 %6 %2\n",
        7,
    ),
}


def text_of(x, filters, taps, pads, epilogue="relu", layouts=("row", "row"), strict=False):
    """Return the program; pads are top, left, bottom, right."""
    n, c, height, width = x
    p, q = height + pads[0] + pads[2] - taps[0] + 1, width + pads[1] + pads[3] - taps[1] + 1
    inputs, body, result = EPILOGUES[epilogue]
    return f"""tile_program 1{" strict" if strict else ""}
input x f32[{n}, {c}, {height}, {width}] row
input w f32[{filters}, {c}, {taps[0]}, {taps[1]}] row
{inputs.format(o=filters)}temp t f32[{n}, {filters}, {p}, {q}] {layouts[0]}
output y f32[{n}, {filters}, {p // 2}, {q // 2}] {layouts[1]}
stage n: {n}, o: {filters}, p: {p}, q: {q}, c: {c}, r: {taps[0]}, s: {taps[1]}
%0 = load x (n, c, p + r - {pads[0]}, q + s - {pads[1]}) else 0
%1 = load w (o, c, r, s)
%2 = dot %0 %1 over c, r, s
{body}store t (n, o, p, q) %{result}
stage n: {n}, o: {filters}, p: {p // 2}, q: {q // 2}, u: 2, v: 2
%0 = load t (n, o, 2 * p + u, 2 * q + v)
%1 = reduce_max %0 over u, v
store y (n, o, p, q) %1
"""


def convolve(x, w, pads):
    """Return the convolution in float64."""
    x = np.pad(x.astype(np.float64), ((0, 0), (0, 0), (pads[0], pads[2]), (pads[1], pads[3])))
    windows = np.lib.stride_tricks.sliding_window_view(x, w.shape[2:], (2, 3))
    return np.einsum("ncpqrs,ocrs->nopq", windows, w.astype(np.float64), optimize=True)


def finish(epilogue, y, b):
    """Return what the epilogue makes of the convolution."""
    b = b.astype(np.float64).reshape(-1, 1, 1)
    if epilogue == "none":
        return y
    if epilogue == "slope":
        return np.where(y < 0, y * b, y)
    low, high = {"bias": (None, np.inf), "relu": (0, None), "clip": (-0.5, 0.5)}[epilogue]
    return np.clip(y + b, low, high)


def pool(y):
    """Return the maxima of windows of 2 x 2."""
    n, c, height, width = y.shape
    y = y[:, :, : height // 2 * 2, : width // 2 * 2]
    return y.reshape(n, c, height // 2, 2, width // 2, 2).max(axis=(3, 5))


def inputs_of(x, filters, taps, epilogue):
    """Return the input, weights and bias; without one if the epilogue has none."""
    x = RNG.standard_normal(x, dtype=np.float32)
    w = RNG.standard_normal((filters, x.shape[1], *taps), dtype=np.float32)
    w /= (taps[0] * taps[1] * x.shape[1]) ** 0.5
    b = RNG.standard_normal(filters, dtype=np.float32)
    return [x, w, b][: 2 if epilogue == "none" else 3], b


def check(x, filters, taps, pads, epilogue="relu", layouts=("row", "row"), strict=False):
    """Compare with float64 on each ISA; return the relative L2 errors."""
    inputs, b = inputs_of(x, filters, taps, epilogue)
    want = pool(finish(epilogue, convolve(*inputs[:2], pads), b))
    want = np.moveaxis(want, 1, -1) if layouts[1] == LAST else want
    text = text_of(x, filters, taps, pads, epilogue, layouts, strict)
    errors = []
    for isa in native_lib.isas():
        for threads in (1, 3):
            (got,) = native_lib.server(isa).run(text, inputs, threads, (1,))
            np.testing.assert_allclose(got, want, atol=1e-5, rtol=1e-5, err_msg=f"{isa} {threads}")
            errors.append(np.linalg.norm(got - want) / np.linalg.norm(want))
    return errors


# By tiles most of those of 5 x 5 with several channels, by lines the others.
SHAPES = {
    "lenet_first": ((1, 1, 32, 32), 6, (5, 5), (0, 0, 0, 0)),
    "lenet_second": ((1, 6, 14, 14), 16, (5, 5), (0, 0, 0, 0)),
    "mnist": ((2, 1, 28, 28), 32, (5, 5), (2, 2, 2, 2)),
    "channels_of_16": ((1, 16, 12, 12), 33, (5, 5), (2, 2, 2, 2)),
    "channels_of_9": ((2, 9, 17, 23), 20, (5, 5), (2, 1, 0, 3)),
    "odd": ((1, 3, 16, 19), 40, (5, 5), (1, 2, 2, 1)),
    "narrow": ((1, 6, 6, 6), 16, (5, 5), (0, 0, 0, 0)),
    "wide": ((1, 4, 20, 131), 24, (5, 5), (2, 2, 2, 2)),
    "tall": ((1, 8, 90, 12), 70, (5, 5), (2, 2, 2, 2)),
    "window_of_3": ((2, 3, 30, 58), 10, (3, 3), (1, 1, 1, 1)),
    "three_by_five": ((1, 2, 13, 37), 7, (3, 5), (1, 0, 1, 3)),
    "line": ((1, 3, 16, 32), 5, (2, 3), (0, 1, 1, 1)),
    "border_beyond": ((1, 4, 8, 8), 16, (5, 5), (4, 4, 4, 4)),
    "odd_border": ((1, 1, 24, 26), 3, (3, 3), (2, 3, 1, 2)),
    "many_lines": ((1, 16, 40, 70), 9, (3, 3), (1, 1, 1, 1)),
}


@pytest.mark.parametrize("name", SHAPES)
def test_shapes(name):
    x, filters, taps, pads = SHAPES[name]
    check(x, filters, taps, pads)


@pytest.mark.parametrize("epilogue", EPILOGUES)
@pytest.mark.parametrize("layouts", [("row", LAST), (LAST, "row"), (LAST, LAST), ("row", "row")])
def test_layouts_and_epilogues(layouts, epilogue):
    check((2, 6, 15, 33), 18, (5, 5), (2, 2, 2, 2), epilogue, layouts)
    check((2, 2, 15, 33), 5, (3, 3), (1, 1, 1, 1), epilogue, layouts)


@pytest.mark.parametrize("name", ["lenet_first", "lenet_second", "window_of_3", "mnist", "wide"])
def test_both_stages_are_one_kernel(name):
    x, filters, taps, pads = SHAPES[name]
    for epilogue, count in (("relu", 1), ("slope", 2)):
        inputs = inputs_of(x, filters, taps, epilogue)[0]
        kernel = native_lib.Kernel(text_of(x, filters, taps, pads, epilogue), inputs, [1])
        assert kernel.plans(inputs) == count


def test_what_is_read_twice_is_stored():
    x, filters, taps, pads = SHAPES["lenet_second"]
    inputs, b = inputs_of(x, filters, taps, "relu")
    first, stages = text_of(x, filters, taps, pads).split("stage", 1)
    text = f"""{first}output z f32[1, 16, 10, 10] row
stage{stages}stage o: 16, p: 10, q: 10
%0 = load t (0, o, p, q)
store z (0, o, p, q) %0
"""
    want = finish("relu", convolve(*inputs[:2], pads), b)
    for isa in native_lib.isas():
        pooled, whole = native_lib.server(isa).run(text, inputs, 1, (1,))
        np.testing.assert_allclose(pooled, pool(want), atol=1e-5, err_msg=isa)
        np.testing.assert_allclose(whole, want, atol=1e-5, err_msg=isa)


def test_errors_are_a_few_roundings():
    """Relative L2 errors against float64: by tiles up to 5e-7, in planes of lines 3e-7."""
    tiles = check(*SHAPES["lenet_second"]) + check(*SHAPES["channels_of_16"])
    assert max(tiles) < 1.2e-6
    for name in ("lenet_first", "odd", "window_of_3", "many_lines"):
        assert max(check(*SHAPES[name])) < 8e-7, name


@pytest.mark.parametrize("name", ["lenet_first", "lenet_second", "window_of_3", "many_lines"])
def test_strict_programs_are_summed_directly(name):
    assert max(check(*SHAPES[name], strict=True)) < 3e-7


@pytest.mark.parametrize("name", ["lenet_first", "lenet_second"])
def test_nan_reaches_the_maxima_that_read_it(name):
    x, filters, taps, pads = SHAPES[name]
    inputs, b = inputs_of(x, filters, taps, "relu")
    for y in (0, 5, 8):
        inputs[0][0, 0, y, 7] = np.nan
        want = np.isnan(pool(finish("relu", convolve(*inputs[:2], pads), b)))
        for isa in native_lib.isas():
            (got,) = native_lib.server(isa).run(text_of(x, filters, taps, pads), inputs, 1, (1,))
            assert np.isnan(got)[want].all(), isa
            assert not np.isnan(got[:, :, -1, -1]).any(), isa
        inputs[0][0, 0, y, 7] = 1


@pytest.mark.parametrize("dims", ["n, o", "o, q", "p", "o, p, q"])
def test_what_is_added_per_image_and_pixel(dims):
    x, filters, taps, pads = (2, 6, 14, 14), 16, (5, 5), (0, 0, 0, 0)
    sizes = {"n": 2, "o": 16, "p": 10, "q": 10}
    inputs, _ = inputs_of(x, filters, taps, "none")
    shape = [sizes[d] for d in dims.split(", ")]
    inputs.append(RNG.standard_normal(shape, dtype=np.float32))
    text = text_of(x, filters, taps, pads, "bias")
    text = text.replace("b f32[16]", f"b f32{shape}").replace("load b (o)", f"load b ({dims})")
    added = inputs[2].reshape([sizes[d] if d in dims else 1 for d in "nopq"])
    want = pool(convolve(*inputs[:2], pads) + added)
    for isa in native_lib.isas():
        (got,) = native_lib.server(isa).run(text, inputs, 1, (1,))
        np.testing.assert_allclose(got, want, atol=1e-5, rtol=1e-5, err_msg=isa)
