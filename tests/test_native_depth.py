"""Depthwise convolution on channels-last images against NumPy in float64, on every ISA.

Extents lie around those of the register tiles (1, 4, 7 outputs, 1 or 2 rows, 4 to 16 channels).
"""

from __future__ import annotations

import native_lib
import numpy as np
import pytest
from test_native_contract import convolve

RNG = np.random.default_rng(21)

# What follows the sum %v: lines whose last one is the result, and their meaning in float64.
GATE = "%h = const f32 0.25\n%s = mul %v %h\n%i = const f32 0.5\n%t = add %s %i\n"
ENDS = {
    "none": ("", lambda v: v),
    "relu": ("%z = const f32 0\n%r = max %v %z", lambda v: np.maximum(v, 0)),
    "clip": (
        "%z = const f32 -0.25\n%r = max %v %z\n%k = const f32 0.75\n%s = min %k %r",
        lambda v: np.clip(v, -0.25, 0.75),
    ),
    "at_most_first": (
        "%k = const f32 0.5\n%r = min %v %k\n%z = const f32 -0.5\n%s = max %r %z",
        lambda v: np.clip(v, -0.5, 0.5),
    ),
    "crossed": (
        "%k = const f32 -0.5\n%r = min %v %k\n%z = const f32 0.5\n%s = max %r %z",
        lambda v: np.full_like(v, 0.5),
    ),
    "silu": ("%r = sigmoid %v\n%s = mul %r %v", lambda v: v / (1 + np.exp(-v))),
    "sigmoid": ("%r = sigmoid %v", lambda v: 1 / (1 + np.exp(-v))),
    "square": ("%r = mul %v %v", np.square),
    "hard_swish": (
        GATE + "%z = const f32 0\n%a = max %t %z\n%o = const f32 1\n%b = min %a %o\n%r = mul %v %b",
        lambda v: v * np.clip(v / 4 + 0.5, 0, 1),
    ),
    "hard_sigmoid": (
        GATE + "%z = const f32 0\n%a = max %t %z\n%o = const f32 1\n%b = min %a %o",
        lambda v: np.clip(v / 4 + 0.5, 0, 1),
    ),
    "hard_swish_scaled": (
        GATE
        + "%z = const f32 0\n%a = max %t %z\n%o = const f32 1\n%b = min %a %o\n%r = mul %v %b\n"
        "%k = const f32 0.75\n%s = mul %k %r\n%l = const f32 -0.5\n%u = add %s %l",
        lambda v: v * np.clip(v / 4 + 0.5, 0, 1) * 0.75 - 0.5,
    ),
    "relu_scaled": (
        "%z = const f32 0\n%r = max %v %z\n%k = const f32 -2\n%s = mul %r %k",
        lambda v: -2 * np.maximum(v, 0),
    ),
    "relu_shifted": (
        "%z = const f32 0\n%r = max %v %z\n%k = const f32 0.5\n%s = add %r %k",
        lambda v: np.maximum(v, 0) + 0.5,
    ),
    "silu_scaled": (
        "%r = sigmoid %v\n%s = mul %r %v\n%k = const f32 3\n%u = mul %s %k\n%l = const f32 1\n"
        "%w = add %u %l",
        lambda v: 3 * v / (1 + np.exp(-v)) + 1,
    ),
    "product_of_others": ("%h = const f32 2\n%a = mul %v %h\n%r = mul %a %a", lambda v: 4 * v * v),
}


def check(
    shape, kernel, strides, dilations, pads, end="relu", layout="last", fill=0.0, bias=True, made=1
):
    n, c, *size = shape
    x = RNG.uniform(-1, 1, shape).astype(np.float32)
    w = (RNG.uniform(-1, 1, (c * made, 1, *kernel)) / kernel[0]).astype(np.float32)
    b = RNG.uniform(-1, 1, c * made).astype(np.float32) * bias
    to = f"{made} * c + m" if made > 1 else "c"
    padded = np.pad(x, [(0, 0), (0, 0), *pads], constant_values=fill)
    v = convolve(padded, w, strides, [(0, 0)] * len(size), dilations, c)
    lines, meaning = ENDS[end]
    want = meaning(v + b.astype(np.float64).reshape(-1, *[1] * len(size)))
    order = f"order(0, {', '.join(str(d + 2) for d in range(len(size)))}, 1)"
    axes = range(len(size))
    places, taps = (", ".join(f"{letter}{d}" for d in axes) for letter in "pr")
    letters = [f"p{d}: {o}" for d, o in enumerate(v.shape[2:])]
    letters += [f"r{d}: {k}" for d, k in enumerate(kernel)]
    at = [f"{strides[d]} * p{d} + {dilations[d]} * r{d} - {pads[d][0]}" for d in axes]
    body = f"""%x = load x (n, c, {", ".join(at)}) else {fill}
%w = load w ({to}, 0, {taps})
%d = dot %x %w over {taps}
{f"%b = load b ({to})" if bias else "%b = const f32 1"}
%v = {"add" if bias else "mul"} %d %b
{lines}"""
    text = f"""tile_program 1
input x f32{list(shape)} {order}
input w f32{list(w.shape)} row
{f"input b f32[{c * made}] row" if bias else ""}
output y f32{list(v.shape)} {order if layout == "last" else "row"}
stage n: {n}, c: {c}, {f"m: {made}, " if made > 1 else ""}{", ".join(letters)}
{numbered(body)}
store y (n, {to}, {places}) %{body.strip().count(chr(10))}
""".replace("\n\n", "\n")
    inputs = [np.ascontiguousarray(np.moveaxis(x, 1, -1)), w] + [b] * bias
    if layout == "last":
        want = np.moveaxis(want, 1, -1)
    # Rounding grows with what is added up: 31x31 terms that cancel leave more than their sum shows.
    terms = convolve(np.abs(padded), np.abs(w), strides, [(0, 0)] * len(size), dilations, c)
    scale = max(1.0, float(np.abs(want).max()), float(terms.max()))
    for isa in native_lib.isas():
        for threads, constant in ((1, (1, 2)[: 1 + bias]), (3, ())):
            (got,) = native_lib.server(isa).run(text, inputs, threads, constant)
            np.testing.assert_allclose(got, want, atol=2e-6 * scale, rtol=0, err_msg=isa)


def numbered(body: str) -> str:
    """Return the lines with their values numbered; a name may be given again."""
    names: dict[str, str] = {}
    lines = []
    for k, line in enumerate(body.strip().splitlines()):
        name, *rest = line.split(" ")
        lines.append(" ".join([f"%{k}", *(names.get(word, word) for word in rest)]))
        names[name] = f"%{k}"
    return "\n".join(lines)


SAME = ((1, 1), (1, 1))


@pytest.mark.parametrize("width", [1, 2, 3, 4, 5, 7, 8, 11, 14])
@pytest.mark.parametrize("kernel,stride", [(3, 1), (3, 2), (5, 1), (5, 2), (7, 1), (7, 2)])
def test_every_width_and_step(width, kernel, stride):
    pad = (kernel // 2, kernel // 2)
    shape = (1, 21, 5, (width - 1) * stride + 1)
    check(shape, (kernel, kernel), (stride, stride), (1, 1), (pad, pad))


@pytest.mark.parametrize("width", [21, 28, 30, 37])
@pytest.mark.parametrize("kernel,stride", [(3, 1), (3, 2), (5, 1), (5, 2)])
@pytest.mark.parametrize("height,end", [(4, "relu"), (5, "silu")])
def test_rows_of_many_tiles(width, kernel, stride, height, end):
    """Tiles that are not at a border run in one call."""
    pads = ((1, 1), (kernel // 2, kernel // 2))
    shape = (1, 33, height * stride, (width - 1) * stride + 1)
    check(shape, (kernel, kernel), (stride, stride), (1, 1), pads, end)


@pytest.mark.parametrize(
    "pads", [((4, 4), (5, 5)), ((1, 1), (3, 0)), ((0, 2), (0, 2)), ((1, 0), (9, 4))]
)
@pytest.mark.parametrize("fill", [0.0, 0.25])
def test_windows_of_which_much_is_outside(pads, fill):
    for size in ((2, 9), (7, 7), (6, 16)):
        for stride in (1, 2):
            check((1, 17, *size), (3, 3), (stride, stride), (1, 1), pads, fill=fill)


@pytest.mark.parametrize("height", [1, 2, 3, 4, 6])
@pytest.mark.parametrize("kernel,stride", [(3, 1), (3, 2), (5, 1), (5, 2), (7, 1), (7, 2)])
def test_lines_outside_low_images(height, kernel, stride):
    """Most of what windows see is outside, where there are zeros, or something else."""
    pads = ((kernel // 2, kernel // 2), (kernel // 2, kernel // 2))
    for fill in (0.0, 0.5):
        check((1, 17, height, 13), (kernel, kernel), (stride, 1), (1, 1), pads, fill=fill)
    check(
        (1, 16, height, 9), (kernel, kernel), (stride, stride), (1, 1), ((kernel, kernel), pads[1])
    )


@pytest.mark.parametrize("channels", [3, 4, 5, 7, 8, 12, 15, 16, 17, 31, 32, 33, 64])
def test_every_remainder_of_channels(channels):
    check((2, channels, 6, 9), (3, 3), (1, 1), (1, 1), SAME)


@pytest.mark.parametrize("shape", [(1, 203, 2, 96), (1, 130, 1, 190), (2, 67, 1, 160)])
@pytest.mark.parametrize("end,layout", [("relu", "last"), ("square", "last"), ("relu", "row")])
def test_threads_that_outnumber_the_rows(shape, end, layout):
    check(shape, (5, 5), (1, 1), (1, 1), ((2, 2), (2, 2)), end, layout)


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("layout", ["last", "row"])
@pytest.mark.parametrize("bias", [True, False])
def test_every_end(end, layout, bias):
    check((2, 19, 7, 11), (3, 3), (1, 1), (1, 1), SAME, end, layout, bias=bias)


@pytest.mark.parametrize(
    "kernel,strides,dilations,pads",
    [
        ((3, 3), (1, 1), (2, 2), ((2, 2), (2, 2))),
        ((3, 3), (1, 1), (1, 3), ((1, 1), (3, 0))),
        ((3, 3), (1, 1), (3, 1), ((0, 3), (1, 1))),
        ((3, 3), (2, 2), (2, 2), ((2, 2), (2, 2))),
        ((3, 3), (2, 1), (1, 1), ((1, 1), (1, 1))),
        ((3, 3), (1, 2), (1, 1), ((1, 1), (0, 1))),
        ((3, 3), (3, 3), (1, 1), ((1, 1), (1, 1))),
        ((1, 5), (1, 1), (1, 1), ((0, 0), (2, 2))),
        ((5, 1), (1, 1), (1, 1), ((2, 2), (0, 0))),
        ((5, 1), (2, 2), (1, 1), ((2, 2), (1, 1))),
        ((2, 3), (1, 1), (1, 1), ((1, 0), (1, 1))),
        ((3, 2), (1, 1), (1, 1), ((1, 1), (1, 0))),
        ((5, 5), (1, 1), (1, 1), ((0, 0), (0, 0))),
        ((3, 3), (1, 1), (1, 1), ((4, 4), (5, 5))),
    ],
)  # fmt: skip
def test_every_kind_of_window(kernel, strides, dilations, pads):
    check((1, 18, 12, 13), kernel, strides, dilations, pads, fill=-0.5)


def test_other_ranks():
    check((2, 18, 40), (5,), (1,), (1,), ((2, 2),))
    check((1, 17, 5, 6, 7), (3, 3, 3), (1, 1, 1), (1, 1, 1), ((1, 1), (1, 1), (1, 1)))
    check((1, 17, 5, 6, 7), (1, 3, 3), (1, 1, 1), (1, 1, 1), ((0, 0), (1, 1), (1, 1)))


def test_a_stride_between_pixels_that_shares_cache_sets():
    check((1, 512, 7, 9), (3, 3), (1, 1), (1, 1), SAME, "hard_swish")
    check((1, 1024, 5, 5), (3, 3), (2, 2), (1, 1), SAME, "square")
    check((2, 512, 30, 5), (5, 5), (1, 1), (1, 1), ((2, 2), (2, 2)), "silu", fill=2.0)


@pytest.mark.parametrize(
    "channels,made", [(9, 2), (4, 4), (5, 3), (48, 2), (65, 2), (7, 21), (70, 4)]
)
@pytest.mark.parametrize("kernel,stride", [(1, 1), (3, 2), (5, 1), (7, 2)])
def test_channels_that_make_several(channels, made, kernel, stride):
    pads = ((kernel // 2, kernel // 2), (kernel // 2, 0))
    shape, size = (2, channels, 9, 13), ((kernel, kernel), (stride, stride))
    for end, layout in (("relu", "last"), ("hard_swish", "last"), ("square", "row")):
        check(shape, *size, (1, 1), pads, end, layout, fill=0.5, made=made)
    check((1, channels, 11), (kernel,), (stride,), (1,), pads[:1], "silu", made=made)
