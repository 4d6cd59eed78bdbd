"""Winograd's convolution in the native library against float64 and the interpreter, on every ISA.

Sizes are such that tiles (4 x 4, 2 x 4 and 2 x 2), vectors and panels of filters are cut at the
borders.
"""

from __future__ import annotations

import native_lib
import numpy as np
import pytest

from onnx_fusion.program import interpret, parse_program

LAST = "order(0, 2, 3, 1)"
RNG = np.random.default_rng(21)
EPILOGUES = {
    "none": ("", "", 2),
    "relu_bias": (
        "input b f32[{o}] row\n",
        "%3 = load b (o)\n%4 = add %2 %3\n%5 = const f32 0\n%6 = max %4 %5\n",
        6,
    ),
    "relu6_residual": (
        "input b f32[{o}] row\ninput z f32[{n}, {o}, {p}, {q}] {out}\n",
        "%3 = load b (o)\n%4 = add %2 %3\n%5 = load z (n, o, p, q)\n%6 = add %4 %5\n"
        "%7 = const f32 0\n%8 = max %6 %7\n%9 = const f32 6\n%10 = min %8 %9\n",
        10,
    ),
    "silu_residual": (
        "input b f32[{o}] row\ninput z f32[{n}, {o}, {p}, {q}] {out}\n",
        "%3 = load b (o)\n%4 = add %2 %3\n%5 = sigmoid %4\n%6 = mul %4 %5\n"
        "%7 = load z (n, o, p, q)\n%8 = add %6 %7\n",
        8,
    ),
    "prelu": (
        "input b f32[{o}] row\n",
        "%3 = load b (o)\n%4 = add %2 %3\n%5 = const f32 0\n%6 = lt %4 %5\n%7 = mul %4 %3\n"
        "%8 = where %6 %7 %4\n",
        8,
    ),
    "gate": (
        "input b f32[{o}] row\n",
        "%3 = load b (o)\n%4 = add %2 %3\n%5 = const f32 0.25\n%6 = mul %4 %5\n"
        "%7 = const f32 0.5\n%8 = add %6 %7\n%9 = const f32 0\n%10 = max %8 %9\n"
        "%11 = const f32 1\n%12 = min %10 %11\n%13 = mul %4 %12\n",
        13,
    ),
    "hard_swish": (
        "input b f32[{o}] row\n",
        "%3 = load b (o)\n%4 = add %2 %3\n%5 = const f32 3\n%6 = add %4 %5\n%7 = const f32 0\n"
        "%8 = max %6 %7\n%9 = const f32 6\n%10 = min %8 %9\n%11 = mul %4 %10\n%12 = div %11 %9\n",
        12,
    ),
}


def values(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape, dtype=np.float32)


def text_of(x, w, pads, layouts, epilogue, strict=False, step=1):
    """Return the program of a 3x3 convolution; pads are top, left, bottom, right."""
    n, c, height, width = x
    p, q = (height + pads[0] + pads[2] - 3) // step + 1, (width + pads[1] + pads[3] - 3) // step + 1
    sizes = {"n": n, "o": w, "p": p, "q": q, "out": layouts[1]}
    inputs, body, result = EPILOGUES[epilogue]
    out = f"[{n}, {w}, {sizes['p']}, {sizes['q']}] {layouts[1]}"
    return f"""tile_program 1{" strict" if strict else ""}
input x f32[{n}, {c}, {height}, {width}] {layouts[0]}
input w f32[{w}, {c}, 3, 3] row
{inputs.format(**sizes)}output y f32{out}
stage n: {n}, o: {w}, p: {sizes["p"]}, q: {sizes["q"]}, c: {c}, r: 3, s: 3
%0 = load x (n, c, {step} * p + r - {pads[0]}, {step} * q + s - {pads[1]}) else 0
%1 = load w (o, c, r, s)
%2 = dot %0 %1 over c, r, s
{body}store y (n, o, p, q) %{result}
"""


def convolve(x, w, pads, step=1):
    """Return the convolution in float64."""
    x = np.pad(x.astype(np.float64), ((0, 0), (0, 0), (pads[0], pads[2]), (pads[1], pads[3])))
    p, q = x.shape[2] - 2, x.shape[3] - 2
    y = np.zeros((x.shape[0], w.shape[0], (p - 1) // step + 1, (q - 1) // step + 1))
    for r in range(3):
        for s in range(3):
            part = x[:, :, r : r + p : step, s : s + q : step]
            y += np.einsum("ncpq,oc->nopq", part, w[:, :, r, s].astype(np.float64), optimize=True)
    return y


def finish(name, y, b, z):
    """Return what the epilogue makes of the convolution."""
    if name == "none":
        return y
    y = y + b.astype(np.float64).reshape(-1, 1, 1)
    if name == "relu_bias":
        return np.maximum(y, 0)
    if name == "relu6_residual":
        return np.clip(y + z, 0, 6)
    if name == "silu_residual":
        return y / (1 + np.exp(-y)) + z
    if name == "prelu":
        return np.where(y < 0, y * b.astype(np.float64).reshape(-1, 1, 1), y)
    if name == "gate":
        return y * np.clip(y / 4 + 0.5, 0, 1)
    return y * np.clip(y + 3, 0, 6) / 6


def lay(array: np.ndarray, layout: str) -> np.ndarray:
    return np.ascontiguousarray(np.moveaxis(array, 1, -1)) if layout == LAST else array


def check(x_shape, filters, pads, layouts, epilogue, isas=None, threads=(1, 3), step=1):
    """Compare with float64 on each ISA; return the relative L2 errors."""
    x, w = values(*x_shape), values(filters, x_shape[1], 3, 3) / (9 * x_shape[1]) ** 0.5
    plain = convolve(x, w, pads, step)
    b, z = values(filters), values(*plain.shape)
    want = lay(finish(epilogue, plain, b, z), layouts[1])
    extra = EPILOGUES[epilogue][0]
    inputs = [lay(x, layouts[0]), w]
    inputs += [b] * ("input b" in extra) + [lay(z, layouts[1])] * ("input z" in extra)
    text = text_of(x_shape, filters, pads, layouts, epilogue, step=step)
    errors = []
    for isa in isas or native_lib.isas():
        for count in threads:
            (got,) = native_lib.server(isa).run(text, inputs, count, (1,))
            assert got.shape == want.shape
            np.testing.assert_allclose(got, want, atol=2e-5, rtol=1e-5, err_msg=f"{isa} {count}")
            errors.append(np.linalg.norm(got - want) / np.linalg.norm(want))
    return errors


MIXES = [("row", "row"), ("row", LAST), (LAST, "row"), (LAST, LAST)]


@pytest.mark.parametrize("layouts", MIXES, ids=["rr", "rl", "lr", "ll"])
@pytest.mark.parametrize("size", [1, 2, 3, 5, 7, 13, 30])
def test_every_size_of_image(size, layouts):
    check((1, 24, size, max(1, 31 - size)), 33, (1, 1, 1, 1), layouts, "relu_bias")


@pytest.mark.parametrize("layouts", MIXES, ids=["rr", "rl", "lr", "ll"])
@pytest.mark.parametrize("epilogue", EPILOGUES)
def test_epilogues_pads_and_batches(epilogue, layouts):
    check((2, 37, 14, 19), 70, (0, 2, 1, 0), layouts, epilogue)
    check((3, 16, 9, 8), 16, (1, 1, 1, 1), layouts, epilogue)
    check((1, 24, 6, 19), 40, (1, 1, 1, 1), layouts, epilogue)  # 2 x 4
    check((2, 70, 47, 54), 135, (0, 2, 1, 0), layouts, epilogue, step=2)


@pytest.mark.parametrize(
    "channels,filters",
    [(8, 8), (33, 8), (70, 9), (8, 12), (16, 48), (17, 31), (64, 24), (130, 40), (48, 129)],
)
def test_channels_that_fill_no_vector(channels, filters):
    for layouts in ((LAST, LAST), ("row", LAST), ("row", "row")):
        check((1, channels, 12, 15), filters, (1, 0, 1, 2), layouts, "silu_residual")


@pytest.mark.parametrize("threads", [2, 4, 7])
def test_few_tiles_are_split_by_filter(threads):
    for layouts in ((LAST, LAST), ("row", "row")):
        check((1, 256, 7, 7), 256, (1, 1, 1, 1), layouts, "relu6_residual", threads=(threads,))
        check((1, 64, 40, 44), 64, (1, 1, 1, 1), layouts, "hard_swish", threads=(threads,))


# Of outputs, in both dims: tiles at the border have 1 to 4 lines and 1 to 4 pixels.
APART = [(24, 25), (25, 26), (26, 27), (27, 24), (25, 24), (26, 25), (27, 26), (24, 27)]


@pytest.mark.parametrize("layouts", MIXES, ids=["rr", "rl", "lr", "ll"])
@pytest.mark.parametrize("size", APART, ids=lambda size: f"{size[0]}x{size[1]}")
def test_steps_of_two_at_every_border(size, layouts):
    height, width = (2 * extent for extent in size)
    check((1, 128, height, width), 72, (1, 1, 1, 1), layouts, "relu_bias", threads=(1,), step=2)
    check((1, 64, height - 1, width + 1), 129, (1, 1, 1, 0), layouts, "none", threads=(3,), step=2)


@pytest.mark.parametrize("step,least,most", [(1, 6e-7, 1.5e-6), (2, 3e-7, 5e-7)])
def test_errors_are_a_few_roundings(step, least, most):
    """Direct convolution has 2.5e-7."""
    for layouts in ((LAST, LAST), ("row", "row")):
        shape = (1, 128, 28 * step, 28 * step)
        errors = check(shape, 128, (1, 1, 1, 1), layouts, "none", threads=(1,), step=step)
        assert least < min(errors) and max(errors) < most


@pytest.mark.parametrize("step", [1, 2])
def test_strict_and_weights_that_change_do_not_use_it(step):
    """Sums of products of small integers are exact, but not by way of the transforms' points."""
    shape, pads = (1, 96, 20 * step, 25 * step), (1, 1, 1, 1)
    x, w = (np.round(3 * values(*extents)) for extents in (shape, (128, 96, 3, 3)))
    inputs = [lay(x, LAST), w]
    want = lay(convolve(x, w, pads, step), LAST)
    for isa in native_lib.isas():
        server = native_lib.server(isa)
        for strict, constant in ((False, (1,)), (True, (1,)), (False, ()), (True, ())):
            text = text_of(shape, 128, pads, (LAST, LAST), "none", strict, step)
            (got,) = server.run(text, inputs, 1, constant)
            np.testing.assert_allclose(got, want, atol=2e-5 * want.std(), rtol=1e-5)
            assert (got == want).all() == (strict or not constant)


def test_interpreter_agrees_with_a_fill_crop_and_dims_of_one():
    text = """tile_program 1
input x f32[N, 20, H, W] row
input w f32[18, 20, 3, 3] row
dim P = H - 1
dim Q = W - 5
output y f32[18, N, P, Q] order(1, 2, 3, 0)
stage n: N, o: 18, p: P, q: Q, c: 20, r: 3, s: 3
%0 = load x (n, c, p + r - 1, q + s + 2) else 0.5
%1 = load w (o, c, r, s)
%2 = dot %0 %1 over c, r, s
store y (o, n, p, q) %2
"""
    for shape in ((1, 20, 9, 21), (2, 20, 2, 40), (1, 20, 30, 6)):
        inputs = [values(*shape), values(18, 20, 3, 3) / 13]
        (want,) = interpret(parse_program(text), inputs)
        for isa in native_lib.isas():
            (got,) = native_lib.server(isa).run(text, inputs, 2, (1,))
            np.testing.assert_allclose(got, want, atol=1e-5)


def test_weights_in_another_order():
    """A convolution whose weights lie as [r][s][channel][filter]."""
    x, w = values(1, 32, 20, 20), values(40, 32, 3, 3) / 17
    text = text_of(x.shape, 40, (1, 1, 1, 1), ("row", LAST), "none")
    text = text.replace("w f32[40, 32, 3, 3] row", "w f32[40, 32, 3, 3] order(2, 3, 1, 0)")
    turned = np.ascontiguousarray(w.transpose(2, 3, 1, 0))
    want = lay(convolve(x, w, (1, 1, 1, 1)), LAST)
    for isa in native_lib.isas():
        (got,) = native_lib.server(isa).run(text, [x, turned], 1, (1,))
        np.testing.assert_allclose(got, want, atol=2e-5, rtol=1e-5)


WINDOWS = {
    # name: x, filters, kernel, strides, pads before and after, dilations
    "line": ((3, 24, 50), 40, (3,), (1,), ((1, 1),), (1,)),
    "line_valid": ((1, 32, 9), 16, (3,), (1,), ((0, 0),), (1,)),
    "long_line": ((2, 64, 203), 72, (3,), (1,), ((1, 1),), (1,)),
    "wide": ((2, 20, 9, 33), 33, (1, 3), (1, 1), ((0, 0), (1, 1)), (1, 1)),
    "tall": ((1, 32, 30, 11), 32, (3, 1), (1, 1), ((1, 0), (0, 0)), (1, 1)),
    "five_by_three": ((1, 16, 14, 19), 24, (5, 3), (1, 1), ((2, 2), (0, 1)), (1, 1)),
    "steps_down": ((1, 32, 21, 40), 32, (3, 3), (2, 1), ((1, 1), (1, 1)), (1, 1)),
    "dilated_down": ((1, 16, 20, 24), 32, (3, 3), (1, 1), ((2, 2), (1, 1)), (2, 1)),
    "steps_of_two": ((3, 64, 43, 38), 100, (3, 3), (2, 2), ((1, 1), (0, 1)), (1, 1)),
    "steps_of_two_by_frames": (
        (1, 64, 4, 44, 41),
        70,
        (3, 3, 3),
        (1, 2, 2),
        ((1, 1), (1, 1), (1, 1)),
        (1, 1, 1),
    ),
    "cube_of_two": ((1, 64, 9, 41, 42), 70, (3, 3, 3), (2, 2, 2), ((1, 1),) * 3, (1, 1, 1)),
    "cube": ((1, 20, 5, 10, 13), 33, (3, 3, 3), (1, 1, 1), ((1, 1),) * 3, (1, 1, 1)),
    "cube_steps": ((2, 17, 8, 9, 8), 16, (3, 3, 3), (2, 1, 1), ((0, 1),) * 3, (1, 1, 1)),
    "frames": ((1, 32, 8, 7, 6), 48, (3, 1, 1), (1, 1, 1), ((1, 1), (0, 0), (0, 0)), (1, 1, 1)),
    "flat": ((1, 24, 3, 12, 12), 32, (1, 3, 3), (1, 1, 1), ((0, 0), (1, 1), (1, 1)), (1, 1, 1)),
    "line_of_5": ((3, 24, 51), 40, (5,), (1,), ((2, 2),), (1,)),
    "line_of_5_valid": ((1, 64, 37), 129, (5,), (1,), ((0, 0),), (1,)),
    "square_of_5": ((2, 20, 9, 33), 33, (5, 5), (1, 1), ((2, 2), (2, 1)), (1, 1)),
    "square_of_5_valid": ((1, 32, 12, 15), 48, (5, 5), (1, 1), ((0, 0), (0, 0)), (1, 1)),
    "tall_of_5": ((1, 32, 30, 11), 32, (5, 1), (1, 1), ((2, 3), (0, 0)), (1, 1)),
    "three_by_five": ((1, 16, 14, 19), 24, (3, 5), (1, 1), ((0, 1), (2, 2)), (1, 1)),
    "steps_down_of_5": ((1, 32, 21, 40), 32, (5, 5), (2, 1), ((2, 2), (2, 2)), (1, 1)),
    "5_by_3_by_3": (
        (1, 17, 9, 8, 10),
        20,
        (5, 3, 3),
        (1, 1, 1),
        ((2, 2), (1, 1), (1, 1)),
        (1, 1, 1),
    ),
    "3_by_5_by_3": (
        (1, 17, 8, 9, 10),
        20,
        (3, 5, 3),
        (1, 1, 1),
        ((1, 1), (2, 2), (1, 1)),
        (1, 1, 1),
    ),
    "seven": ((1, 24, 15, 18), 33, (7, 7), (1, 1), ((3, 3), (3, 2)), (1, 1)),
    "seven_valid": ((2, 32, 9, 31), 16, (7, 7), (1, 1), ((0, 0), (0, 0)), (1, 1)),
    "seven_by_three": ((1, 16, 21, 12), 20, (7, 3), (1, 1), ((3, 3), (1, 1)), (1, 1)),
    "three_by_39": ((1, 8, 13, 50), 8, (3, 39), (1, 1), ((1, 1), (19, 19)), (1, 1)),
    "nine_by_five": ((1, 37, 17, 14), 24, (9, 5), (1, 1), ((4, 4), (2, 2)), (1, 1)),
    "steps_down_of_7": ((1, 32, 31, 40), 32, (7, 7), (2, 1), ((3, 3), (3, 3)), (1, 1)),
    "line_of_7": ((1, 40, 101), 64, (7,), (1,), ((3, 3),), (1,)),
    "line_of_10": ((2, 24, 90), 40, (10,), (1,), ((5, 4),), (1,)),
    "line_of_11": ((2, 40, 90), 64, (11,), (1,), ((5, 5),), (1,)),
    "3_by_3_by_7": (
        (1, 17, 6, 9, 12),
        20,
        (3, 3, 7),
        (1, 1, 1),
        ((1, 1), (1, 1), (3, 3)),
        (1, 1, 1),
    ),
    "3_by_3_by_5": (
        (1, 17, 8, 10, 9),
        20,
        (3, 3, 5),
        (1, 1, 1),
        ((1, 1), (1, 1), (2, 2)),
        (1, 1, 1),
    ),
}


def convolve_any(x, w, strides, pads, dilations):
    """Return a convolution of any rank by the interpreter's way, in float64."""
    x = np.pad(x.astype(np.float64), ((0, 0), (0, 0), *pads))
    outs = [
        (n - d * (k - 1) - 1) // s + 1
        for n, k, s, d in zip(x.shape[2:], w.shape[2:], strides, dilations, strict=True)
    ]
    y = np.zeros((x.shape[0], w.shape[0], *outs))
    for taps in np.ndindex(*w.shape[2:]):
        window = tuple(
            slice(t * d, t * d + (n - 1) * s + 1, s)
            for t, d, n, s in zip(taps, dilations, outs, strides, strict=True)
        )
        part = x[(slice(None), slice(None), *window)]
        y += np.einsum("nc...,oc->no...", part, w[(slice(None), slice(None), *taps)], optimize=True)
    return y


@pytest.mark.parametrize("name", WINDOWS)
@pytest.mark.parametrize("last", [False, True], ids=["row", "last"])
def test_windows_of_one_and_three_dims(name, last):
    shape, filters, kernel, strides, pads, dilations = WINDOWS[name]
    rank = len(kernel)
    x, w = values(*shape), values(filters, shape[1], *kernel) / 12
    want = convolve_any(x, w, strides, pads, dilations)
    layout = f"order(0, {', '.join(str(d + 2) for d in range(rank))}, 1)" if last else "row"
    at = ", ".join(
        f"{strides[d]} * p{d} + {dilations[d]} * r{d} - {pads[d][0]}" for d in range(rank)
    )
    places, taps = (", ".join(f"{a}{d}" for d in range(rank)) for a in "pr")
    text = f"""tile_program 1
input x f32{list(shape)} {layout}
input w f32{list(w.shape)} row
input b f32[{filters}] row
output y f32{list(want.shape)} {layout}
stage n: {shape[0]}, o: {filters}, {", ".join(f"p{d}: {want.shape[d + 2]}" for d in range(rank))}, \
c: {shape[1]}, {", ".join(f"r{d}: {kernel[d]}" for d in range(rank))}
%0 = load x (n, c, {at}) else 0
%1 = load w (o, c, {taps})
%2 = dot %0 %1 over c, {taps}
%3 = load b (o)
%4 = add %2 %3
EPILOGUE
"""
    b = values(filters)
    sums = want + b.reshape(-1, *[1] * rank)
    for epilogue, wanted in (
        (f"store y (n, o, {places}) %4", sums),
        (f"%5 = sigmoid %4\nstore y (n, o, {places}) %5", 1 / (1 + np.exp(-sums))),
    ):
        own, wanted = lay(x, LAST if last else "row"), lay(wanted, LAST if last else "row")
        program = text.replace("EPILOGUE", epilogue)
        for isa in native_lib.isas():
            for threads in (1, 3):
                (got,) = native_lib.server(isa).run(program, [own, w, b], threads, (1,))
                np.testing.assert_allclose(got, wanted, atol=2e-5, rtol=1e-5, err_msg=isa)


def test_long_windows_are_cut():
    """Sums of products of small integers would be exact."""
    x, w = (np.round(3 * values(*shape)) for shape in ((1, 16, 20, 20), (16, 16, 7, 7)))
    want = lay(convolve_any(x, w, (1, 1), ((3, 3), (3, 3)), (1, 1)), LAST)
    text = text_of(x.shape, 16, (3, 3, 3, 3), (LAST, LAST), "none")
    text = text.replace("16, 3, 3]", "16, 7, 7]").replace("r: 3, s: 3", "r: 7, s: 7")
    text = text.replace("24", "20")
    for isa in native_lib.isas():
        (got,) = native_lib.server(isa).run(text, [lay(x, LAST), w], 1, (1,))
        np.testing.assert_allclose(got, want, atol=2e-5 * want.std(), rtol=1e-5)
        assert (got != want).any()


def test_weights_are_shared_between_shapes_of_a_kernel():
    text = """tile_program 1
input x f32[N, 32, H, W] order(0, 2, 3, 1)
input w f32[32, 32, 3, 3] row
output y f32[N, 32, H, W] order(0, 2, 3, 1)
stage n: N, o: 32, p: H, q: W, c: 32, r: 3, s: 3
%0 = load x (n, c, p + r - 1, q + s - 1) else 0
%1 = load w (o, c, r, s)
%2 = dot %0 %1 over c, r, s
store y (n, o, p, q) %2
"""
    w = values(32, 32, 3, 3) / 17
    kernel = native_lib.Kernel(text, [values(1, 8, 8, 32), w], (1,))
    for n, height, width in ((1, 8, 8), (2, 30, 17), (1, 1, 1), (4, 3, 50), (1, 8, 8)):
        x = values(n, 32, height, width)
        (got,) = kernel.run([lay(x, LAST), kernel.kept[1]], 2)
        want = lay(convolve(x, w, (1, 1, 1, 1)), LAST)
        np.testing.assert_allclose(got, want, atol=2e-5, rtol=1e-5)
