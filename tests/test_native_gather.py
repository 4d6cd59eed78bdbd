"""Elements found one by one, and copies of short rows, against the interpreter."""

from __future__ import annotations

import native_lib
import numpy as np
import pytest

from onnx_fusion.program import interpret, parse_program

RNG = np.random.default_rng(5)


def check(text: str, *inputs: np.ndarray) -> None:
    (want,) = interpret(parse_program(text), list(inputs))
    for isa in native_lib.isas():
        for threads in (1, 3):
            (got,) = native_lib.server(isa).run(text, list(inputs), threads)
            np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-6, err_msg=isa)


@pytest.mark.parametrize("index", ["i32", "i64"])
def test_an_index_for_each_element(index):
    dtype = np.int32 if index == "i32" else np.int64
    for rows, columns, taken in ((1, 5, 3), (7, 300, 90), (40, 33, 17)):
        x = RNG.normal(size=(rows, columns)).astype(np.float32)
        at = RNG.integers(-2, columns + 2, (rows, taken)).astype(dtype)
        check(
            f"tile_program 1\ninput x f32[{rows}, {columns}] row\n"
            f"input a {index}[{rows}, {taken}] row\n"
            f"output y f32[{rows}, {taken}] row\nstage i: {rows}, j: {taken}\n"
            "%0 = load a (i, j)\n%1 = load x (i, %0) else 7\nstore y (i, j) %1\n",
            x, at,
        )  # fmt: skip


def test_two_indices_a_border_and_an_index_for_each_column():
    x = RNG.normal(size=(6, 9, 11)).astype(np.float32)
    first = RNG.integers(-1, 7, (20, 30))
    second = RNG.integers(-1, 12, 30)
    check(
        "tile_program 1\ninput x f32[6, 9, 11] row\ninput a i64[20, 30] row\ninput b i64[30] row\n"
        "output y f32[20, 30] row\nstage i: 20, j: 30\n"
        "%0 = load a (i, j)\n%1 = load b (j)\n%2 = load x (%0, i - 3, %1) else -inf\n"
        "store y (i, j) %2\n",
        x, first, second,
    )  # fmt: skip


def test_an_index_outside_fails():
    text = (
        "tile_program 1\ninput x f32[4, 50] row\ninput a i64[4, 20] row\noutput y f32[4, 20] row\n"
        "stage i: 4, j: 20\n%0 = load a (i, j)\n%1 = load x (i, %0)\nstore y (i, j) %1\n"
    )
    x = RNG.normal(size=(4, 50)).astype(np.float32)
    at = RNG.integers(0, 50, (4, 20))
    check(text, x, at)
    for wrong in (-1, 50):
        at[2, 11] = wrong
        for isa in native_lib.isas():
            with pytest.raises(native_lib.NativeError):
                native_lib.server(isa).run(text, [x, at], 1)


@pytest.mark.parametrize("channels", [1, 3, 24, 64])
def test_rows_that_come_several_times(channels):
    """A small image, each pixel twice or three times along both sides, and one that is added."""
    for h, w, s in ((5, 9, 2), (4, 40, 3)):
        x = RNG.normal(size=(h, w, channels)).astype(np.float32)
        y = RNG.normal(size=(h * s, w * s, channels)).astype(np.float32)
        check(
            f"tile_program 1\ninput x f32[{h}, {w}, {channels}] row\n"
            f"input z f32[{h * s}, {w * s}, {channels}] row\n"
            f"output y f32[{h * s}, {w * s}, {channels}] row\n"
            f"stage h: {h}, a: {s}, w: {w}, b: {s}, c: {channels}\n"
            f"%0 = load x (h, w, c)\n%1 = load z ({s} * h + a, {s} * w + b, c)\n%2 = add %0 %1\n"
            f"store y ({s} * h + a, {s} * w + b, c) %2\n",
            x, y,
        )  # fmt: skip


def test_a_weight_for_each_phase_of_a_pixel():
    for w, c, s in ((40, 16, 2), (30, 1, 4), (9, 5, 16), (9, 5, 17)):
        x = RNG.normal(size=(w, c)).astype(np.float32)
        check(
            f"tile_program 1\ninput x f32[{w}, {c}] row\noutput y f32[{w * s}, {c}] row\n"
            f"stage i: {w}, a: {s}, c: {c}\n"
            f"%0 = load x (i, c)\n%1 = load x (i + 1, c) else 0\n%2 = select (i < {w - 1}) %1 %0\n"
            f"%3 = index 2 * a + 1\n%4 = cast f32 %3\n%5 = const f32 {s * 2}\n%6 = div %4 %5\n"
            f"%7 = mul %2 %6\n%8 = sub %0 %7\nstore y ({s} * i + a, c) %8\n",
            x,
        )


def test_an_index_that_two_loops_over_a_row_compute():
    """Rows that are streamed are computed in each loop, with the loads' indices."""
    text = """tile_program 1
input x f32[2, 16, 20, 20] row
input s f32[2, 16] row
input places i64[16] row
output y f32[2, 16, 20, 20] order(0, 2, 3, 1)
stage n: 2, c: 16, h: 20, w: 20
%0 = load places (c)
%1 = index 16
%2 = add %0 %1
%3 = index 0
%4 = lt %0 %3
%5 = where %4 %2 %0
%6 = load x (n, %5, h, w)
%7 = load s (n, %5)
%8 = mul %6 %7
%9 = reduce_sum %8 over c
%10 = mul %8 %9
store y (n, c, h, w) %10
"""
    rng = np.random.default_rng(3)
    x, s = (rng.uniform(-1, 1, shape).astype(np.float32) for shape in ((2, 16, 20, 20), (2, 16)))
    places = rng.integers(-16, 16, 16)
    picked = (x.astype(np.float64) * s[:, :, None, None])[:, places]
    want = np.moveaxis(picked * picked.sum(1, keepdims=True), 1, -1)
    for isa in native_lib.isas():
        (got,) = native_lib.server(isa).run(text, [x, s, places], 1)
        np.testing.assert_allclose(got, want, atol=1e-5, rtol=0, err_msg=isa)
