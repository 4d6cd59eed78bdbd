"""Contractions in the native library against NumPy in float64: shape classes, borders, every ISA.

The sizes lie around those of the register tiles (4, 6, 8 rows; 4 to 48 columns) and of the blocks
of k (384), so that each edge has a case on both sides.
"""

from __future__ import annotations

import itertools

import native_lib
import numpy as np
import pytest

from onnx_fusion.program import interpret, parse_program

RNG = np.random.default_rng(20)


def values(*shape: int) -> np.ndarray:
    return RNG.uniform(-1, 1, shape).astype(np.float32)


def assert_all(text: str, inputs: list[np.ndarray], want: np.ndarray, depth: int) -> None:
    """Run on every ISA: weights constant or not, one thread or three."""
    scale = max(float(np.abs(want).max(initial=0.0)), 1e-3)
    for isa in native_lib.isas():
        for threads, constant in ((1, ()), (3, (1,)), (1, (0,)), (2, (0, 1))):
            (got,) = native_lib.server(isa).run(text, inputs, threads, constant)
            assert got.shape == want.shape
            worst = float(np.abs(got - want).max(initial=0.0)) / scale
            assert worst < 1e-6 * max(1.0, depth**0.5 / 8), (isa, threads, constant)


PRODUCTS = (
    (1, 1, 1), (1, 400, 120), (1, 120, 84), (1, 84, 10), (1, 9, 49), (1, 300, 1), (2, 3, 5),
    (2, 60, 120), (3, 40, 200), (4, 31, 23), (5, 17, 33), (6, 16, 25), (7, 255, 47), (8, 256, 48),
    (9, 257, 49), (13, 640, 97), (33, 600, 50), (50, 20, 1), (130, 513, 7), (300, 40, 3),
    (35, 1, 144), (49, 385, 72), (2, 900, 130), (250, 70, 17), (11, 1200, 40), (1, 401, 131),
    (1, 37, 4500),
)  # fmt: skip


@pytest.mark.parametrize("m,k,n", PRODUCTS)
def test_products_in_every_layout(m, k, n):
    x, w = values(m, k), values(k, n)
    want = x.astype(np.float64) @ w
    for left, right, out in itertools.product((False, True), repeat=3):
        text = f"""tile_program 1
input x f32[{f"{k}, {m}" if left else f"{m}, {k}"}] row
input w f32[{f"{n}, {k}" if right else f"{k}, {n}"}] row
output y f32[{f"{n}, {m}" if out else f"{m}, {n}"}] row
stage i: {m}, j: {n}, k: {k}
%0 = load x ({"k, i" if left else "i, k"})
%1 = load w ({"j, k" if right else "k, j"})
%2 = dot %0 %1 over k
store y ({"j, i" if out else "i, j"}) %2
"""
        arrays = [np.ascontiguousarray(a) for a in (x.T if left else x, w.T if right else w)]
        assert_all(text, arrays, want.T if out else want, k)


def convolve(x, w, strides, pads, dilations, groups):
    """Return the convolution in float64; pads are (before, after) for each dimension."""
    rank = x.ndim - 2
    x = np.pad(x.astype(np.float64), [(0, 0), (0, 0), *pads])
    outs = tuple(
        (x.shape[2 + d] - dilations[d] * (w.shape[2 + d] - 1) - 1) // strides[d] + 1
        for d in range(rank)
    )
    per_in, per_out = w.shape[1], w.shape[0] // groups
    y = np.zeros((x.shape[0], w.shape[0], *outs))
    for taps in itertools.product(*(range(s) for s in w.shape[2:])):
        window = tuple(
            slice(t * d, t * d + (o - 1) * s + 1, s)
            for t, d, o, s in zip(taps, dilations, outs, strides, strict=True)
        )
        for g in range(groups):
            part = x[(slice(None), slice(g * per_in, (g + 1) * per_in), *window)]
            weights = w[(slice(g * per_out, (g + 1) * per_out), slice(None), *taps)]
            y[:, g * per_out : (g + 1) * per_out] += np.einsum("nc...,oc->no...", part, weights)
    return y


def conv_text(x, w, y, strides, pads, dilations, groups, last, epilogue):
    """Return the program of a convolution; `last` says which of x and y are channels-last."""
    rank = x.ndim - 2
    per_in, per_out = w.shape[1], w.shape[0] // groups
    order = f"order(0, {', '.join(str(d + 2) for d in range(rank))}, 1)"
    layouts = [order if f else "row" for f in last]
    outer = [f"p{d}: {y.shape[2 + d]}" for d in range(rank)]
    taps = [f"r{d}: {w.shape[2 + d]}" for d in range(rank)]
    group = [f"g: {groups}"] if groups > 1 else []
    inputs = [f"n: {x.shape[0]}", *group]
    inputs += [f"o: {per_out}"] * (per_out > 1) + outer + [f"c: {per_in}"] * (per_in > 1) + taps
    filters = " + ".join([f"{per_out} * g"] * (groups > 1) + ["o"] * (per_out > 1) or ["0"])
    channel = " + ".join([f"{per_in} * g"] * (groups > 1) + ["c"] * (per_in > 1) or ["0"])
    at = ", ".join(
        f"{strides[d]} * p{d} + {dilations[d]} * r{d} - {pads[d][0]}" for d in range(rank)
    )
    steps = ", ".join(f"r{d}" for d in range(rank))
    over = ", ".join(["c"] * (per_in > 1) + [steps])
    places = ", ".join(f"p{d}" for d in range(rank))
    after = (
        f"""%3 = load b ({filters})
%4 = add %2 %3
%5 = load z (n, {filters}, {places})
%6 = add %4 %5
%7 = sigmoid %6
%8 = mul %6 %7
"""
        if epilogue
        else ""
    )
    extra = f"input b f32[{w.shape[0]}] row\ninput z f32{list(y.shape)} {layouts[1]}\n"
    return f"""tile_program 1
input x f32{list(x.shape)} {layouts[0]}
input w f32{list(w.shape)} row
{extra if epilogue else ""}output y f32{list(y.shape)} {layouts[1]}
stage {", ".join(inputs)}
%0 = load x (n, {channel}, {at}) else 0
%1 = load w ({filters}, {"c" if per_in > 1 else "0"}, {steps})
%2 = dot %0 %1 over {over}
{after}store y (n, {filters}, {places}) %{8 if epilogue else 2}
"""


CONVOLUTIONS = {
    # name: x, w, strides, pads, dilations, groups
    "lenet_1": ((1, 1, 28, 28), (6, 1, 5, 5), (1, 1), ((0, 0), (0, 0)), (1, 1), 1),
    "lenet_2": ((1, 6, 14, 14), (16, 6, 5, 5), (1, 1), ((0, 0), (0, 0)), (1, 1), 1),
    "same": ((2, 5, 13, 17), (19, 5, 3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 1),
    "deep": ((1, 70, 7, 7), (33, 70, 3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 1),
    "stem": ((1, 3, 37, 41), (20, 3, 7, 7), (2, 2), ((3, 3), (3, 3)), (1, 1), 1),
    "stem_3": ((2, 3, 33, 45), (35, 3, 3, 3), (2, 2), ((0, 1), (0, 1)), (1, 1), 1),
    "windows_outside": ((1, 2, 5, 12), (24, 2, 5, 7), (1, 3), ((7, 5), (9, 13)), (1, 2), 1),
    "long_lines": ((1, 1, 4, 300), (8, 1, 3, 5), (1, 4), ((1, 1), (2, 2)), (1, 1), 1),
    "longest_lines": ((1, 8, 3, 700), (16, 8, 3, 3), (1, 2), ((1, 1), (1, 1)), (1, 1), 1),
    "pointwise": ((2, 33, 7, 9), (65, 33, 1, 1), (1, 1), ((0, 0), (0, 0)), (1, 1), 1),
    "pointwise_stride": ((1, 24, 14, 14), (18, 24, 1, 1), (2, 2), ((0, 0), (0, 0)), (1, 1), 1),
    "stride_3_uneven": ((1, 4, 20, 11), (9, 4, 3, 2), (3, 1), ((0, 2), (1, 0)), (1, 1), 1),
    "dilated_groups": ((2, 8, 20, 9), (12, 2, 3, 3), (1, 1), ((2, 2), (2, 2)), (2, 2), 4),
    "one_dim": ((2, 9, 50), (17, 9, 5), (2,), ((2, 2),), (1,), 1),
    "eight_channels": ((2, 8, 90), (8, 8, 11), (1,), ((15, 15),), (3,), 1),
    "twelve_channels": ((1, 12, 9, 13), (8, 12, 3, 5), (2, 1), ((1, 1), (2, 3)), (1, 1), 1),
    "three_dim": (
        (1, 3, 6, 7, 8), (5, 3, 2, 3, 3), (1, 2, 1), ((1, 0), (1, 1), (0, 1)), (1, 1, 2), 1
    ),
    "many_taps": ((1, 2, 9, 60), (3, 2, 2, 40), (1, 1), ((1, 0), (20, 19)), (1, 1), 1),
    "depthwise_3": ((1, 12, 15, 21), (12, 1, 3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 12),
    "depthwise_3_stride": ((2, 19, 16, 34), (19, 1, 3, 3), (2, 2), ((1, 1), (1, 1)), (1, 1), 19),
    "depthwise_5": ((1, 40, 14, 14), (40, 1, 5, 5), (1, 1), ((2, 2), (2, 2)), (1, 1), 40),
    "depthwise_7_valid": ((1, 17, 20, 20), (17, 1, 7, 7), (1, 1), ((0, 0), (0, 0)), (1, 1), 17),
    "depthwise_5_stride": ((1, 33, 21, 23), (33, 1, 5, 5), (2, 2), ((2, 2), (2, 2)), (1, 1), 33),
    "depthwise_large": ((1, 3, 60, 70), (3, 1, 3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 3),
    "depthwise_dilated": ((1, 20, 12, 12), (20, 1, 3, 3), (1, 1), ((2, 2), (2, 2)), (2, 2), 20),
    "depthwise_one_dim": ((2, 18, 40), (18, 1, 9), (1,), ((4, 4),), (1,), 18),
    "depthwise_stride_3": ((1, 6, 17, 19), (6, 1, 3, 3), (3, 3), ((1, 1), (1, 1)), (1, 1), 6),
    "multiplier": ((1, 6, 10, 10), (12, 1, 3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 6),
}  # fmt: skip


@pytest.mark.parametrize("name", CONVOLUTIONS)
@pytest.mark.parametrize("last", list(itertools.product((False, True), repeat=2)))
def test_convolutions_in_every_layout(name, last):
    x_shape, w_shape, *rest = CONVOLUTIONS[name]
    x, w = values(*x_shape), values(*w_shape)
    want = convolve(x, w, *rest)
    depth = int(np.prod(w_shape[1:]))
    plain = conv_text(x, w, want, *rest, last, epilogue=False)
    b, z = values(w_shape[0]), values(*want.shape)
    fused = conv_text(x, w, want, *rest, last, epilogue=True)
    sums = want + b.reshape(-1, *[1] * (x.ndim - 2)) + z

    def lay(array: np.ndarray, is_last: bool) -> np.ndarray:
        return np.ascontiguousarray(np.moveaxis(array, 1, -1)) if is_last else array

    own = lay(x, last[0])
    assert_all(plain, [own, w], lay(want, last[1]), depth)
    assert_all(fused, [own, w, b, lay(z, last[1])], lay(sums / (1 + np.exp(-sums)), last[1]), depth)


def test_batches_share_or_repeat_operands():
    x, w = values(3, 1, 10, 20), values(2, 20, 18)
    text = """tile_program 1
input x f32[3, 1, 10, 20] row
input w f32[2, 20, 18] row
output y f32[3, 2, 10, 18] row
stage a: 3, b: 2, i: 10, j: 18, k: 20
%0 = load x (a, 0, i, k)
%1 = load w (b, k, j)
%2 = dot %0 %1 over k
store y (a, b, i, j) %2
"""
    assert_all(text, [x, w], x.astype(np.float64) @ w, 20)


def test_attention_heads_with_one_query():
    """Batched products of one row: keys along k are read in place, values in panels."""
    q, k = values(4, 1, 64), values(4, 50, 64)
    text = """tile_program 1
input q f32[4, 1, 64] row
input k f32[4, 50, 64] row
output y f32[4, 1, 50] row
stage h: 4, j: 50, d: 64
%0 = load q (h, 0, d)
%1 = load k (h, j, d)
%2 = dot %0 %1 over d
store y (h, 0, j) %2
"""
    assert_all(text, [q, k], q.astype(np.float64) @ k.transpose(0, 2, 1), 64)
    p, v = values(4, 1, 200), values(4, 200, 48)
    text = """tile_program 1
input p f32[4, 1, 200] row
input v f32[4, 200, 48] row
output y f32[4, 1, 48] row
stage h: 4, d: 48, j: 200
%0 = load p (h, 0, j)
%1 = load v (h, j, d)
%2 = dot %0 %1 over j
store y (h, 0, d) %2
"""
    assert_all(text, [p, v], p.astype(np.float64) @ v, 200)


GUARDED = """tile_program 1
input x f32[M, K] row
input w f32[K, N] row
input g f32[K] row
input s f32[M] row
output y f32[M, N] row
output z f32[N, M] row
stage i: M, j: N, k: K
%0 = load x (i, k - 5) else 2
%1 = load g (k)
%2 = mul %0 %1
%3 = sigmoid %2
%4 = load w (k, j + 3) else -1
%5 = dot %3 %4 over k
%6 = load s (i)
%7 = mul %5 %6
store y (i, j) %7
%8 = const f32 0
%9 = max %7 %8
store z (j, i) %9
"""


@pytest.mark.parametrize("m,k,n", [(1, 30, 40), (9, 33, 50), (20, 300, 70)])
def test_prologues_guards_and_two_stores_equal_the_interpreter(m, k, n):
    inputs = [values(m, k), values(k, n), values(k), values(m)]
    want = interpret(parse_program(GUARDED), inputs)
    for isa in native_lib.isas():
        for threads, constant in ((1, ()), (3, (1, 2))):
            got = native_lib.server(isa).run(GUARDED, inputs, threads, constant)
            for g, w in zip(got, want, strict=True):
                np.testing.assert_allclose(g, w, rtol=2e-6, atol=4e-6 * np.abs(w).max())


def test_fill_of_a_border_is_not_taken_for_zero():
    x, w = values(1, 20, 9, 9), values(10, 20, 3, 3)
    text = """tile_program 1
input x f32[1, 20, 9, 9] LAYOUT
input w f32[10, 20, 3, 3] row
output y f32[1, 10, 9, 9] row
stage o: 10, p: 9, q: 9, c: 20, r: 3, s: 3
%0 = load x (0, c, p + r - 1, q + s - 1) else 0.5
%1 = load w (o, c, r, s)
%2 = dot %0 %1 over c, r, s
store y (0, o, p, q) %2
"""
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)), constant_values=0.5)
    want = convolve(padded, w, (1, 1), ((0, 0), (0, 0)), (1, 1), 1)
    assert_all(text.replace("LAYOUT", "row"), [x, w], want, 180)
    turned = np.ascontiguousarray(x.transpose(0, 2, 3, 1))
    assert_all(text.replace("LAYOUT", "order(0, 2, 3, 1)"), [turned, w], want, 180)


def test_nan_in_a_column_stays_in_its_row_and_column():
    x, w = values(9, 40), values(40, 50)
    x[4, 7] = np.nan
    text = """tile_program 1
input x f32[9, 40] row
input w f32[40, 50] row
output y f32[9, 50] row
stage i: 9, j: 50, k: 40
%0 = load x (i, k)
%1 = load w (k, j)
%2 = dot %0 %1 over k
store y (i, j) %2
"""
    for isa in native_lib.isas():
        (got,) = native_lib.server(isa).run(text, [x, w], 1, (1,))
        assert np.isnan(got[4]).all()
        assert np.isfinite(np.delete(got, 4, axis=0)).all()


def test_a_kernel_serves_several_shapes_with_the_same_weights():
    w = values(33, 40)
    text = """tile_program 1
input x f32[M, 33] row
input w f32[33, 40] row
output y f32[M, 40] row
stage i: M, j: 40, k: 33
%0 = load x (i, k)
%1 = load w (k, j)
%2 = dot %0 %1 over k
store y (i, j) %2
"""
    kernel = native_lib.Kernel(text, [values(1, 33), w], (1,))
    for m in (1, 2, 9, 64, 1, 130):
        x = values(m, 33)
        (got,) = kernel.run([x, kernel.kept[1]], 2)
        np.testing.assert_allclose(got, x.astype(np.float64) @ w, atol=2e-6)
