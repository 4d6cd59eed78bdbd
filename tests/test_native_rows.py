"""Softmax and norms over rows of any length, on every instruction set, against float64."""

from __future__ import annotations

import re

import native_lib
import numpy as np
import pytest

HEAD = "tile_program 1\ninput x f32[M, N] row\n"
STRICT = "tile_program 1 strict\n"
SOFTMAX = (
    f"{HEAD}output y f32[M, N] row\nstage i: M, j: N\n%0 = load x (i, j)\n"
    "%1 = reduce_max %0 over j\n%2 = sub %0 %1\n%3 = exp %2\n%4 = reduce_sum %3 over j\n"
    "%5 = div %3 %4\nstore y (i, j) %5\n"
)


LOG_SOFTMAX = SOFTMAX.replace("%5 = div %3 %4", "%5 = log %4\n%6 = sub %2 %5").replace(
    "store y (i, j) %5", "store y (i, j) %6"
)


def layer_norm(size: int, form: str = "over") -> str:
    """Return a norm; scale and bias run along rows, are one for each, or for each element."""
    extent, letter = {"rows": ("M", "i"), "all": ("M, N", "i, j")}.get(form, ("N", "j"))
    over = form != "times"
    finish = "%10 = sqrt %9\n%11 = div %4 %10\n"
    if not over:
        finish = "%10 = pow %9 %13\n%11 = mul %10 %4\n"
    text = (
        f"{HEAD}input g f32[{extent}] row\ninput b f32[{extent}] row\noutput y f32[M, N] row\n"
        "stage i: M, j: N\n%0 = load x (i, j)\n%1 = reduce_sum %0 over j\n"
        f"%2 = const f32 {size}\n%3 = div %1 %2\n%4 = sub %0 %3\n%5 = mul %4 %4\n"
        "%6 = reduce_sum %5 over j\n%7 = div %6 %2\n%8 = const f32 1e-05\n%9 = add %7 %8\n"
        f"{finish}%12 = load g ({letter})\n%14 = mul %11 %12\n%15 = load b ({letter})\n"
        "%16 = add %14 %15\nstore y (i, j) %16\n"
    )
    power = "%13 = const f32 -0.5\n"
    lines = text.replace("%10 = pow", f"{power}%10 = pow").split("\n")
    if over:
        lines = text.replace("%12 = load g", f"{power}%12 = load g").split("\n")
    return renumbered(lines)


def renumbered(lines: list[str]) -> str:
    """Return the lines with values numbered in the order they are defined."""
    names: dict[str, str] = {}
    for line in lines:
        if found := re.match(r"(%\d+) =", line):
            names[found[1]] = f"%{len(names)}"
    return "\n".join(re.sub(r"%\d+", lambda m: names[m[0]], line) for line in lines)


RMS = (
    f"{HEAD}input g f32[N] row\noutput y f32[M, N] row\nstage i: M, j: N\n%0 = load x (i, j)\n"
    "%1 = mul %0 %0\n%2 = reduce_sum %1 over j\n%3 = sqrt %2\n%4 = div %0 %3\n"
    "%5 = load g (j)\n%6 = mul %4 %5\nstore y (i, j) %6\n"
)


def softmax(x: np.ndarray) -> np.ndarray:
    """Return it in float64, but for the difference to the largest, which is rounded to float32."""
    with np.errstate(invalid="ignore"):
        e = np.exp((x - x.max(-1, keepdims=True)).astype(np.float64))
        return e / e.sum(-1, keepdims=True)


def normed(x: np.ndarray, g: np.ndarray, b: np.ndarray) -> np.ndarray:
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5) * g + b


def on_every_isa(text: str, inputs: list[np.ndarray]):
    for isa in native_lib.isas():
        for threads in (1, 2):
            yield native_lib.server(isa).run(text, inputs, threads)[0]


LENGTHS = (1, 2, 3, 5, 8, 15, 16, 17, 31, 33, 64, 65, 100, 197, 768, 1025, 5000)
ROWS = (1, 3, 17, 50)


@pytest.mark.parametrize("length", LENGTHS)
def test_softmax(length):
    rng = np.random.default_rng(length)
    for rows in ROWS:
        x = rng.normal(0, 6, (rows, length)).astype(np.float32)
        want = softmax(x)
        for header in ("tile_program 1\n", STRICT):
            for got in on_every_isa(SOFTMAX.replace("tile_program 1\n", header), [x]):
                np.testing.assert_allclose(got, want, rtol=2e-6, atol=1e-37)


@pytest.mark.parametrize("length", [1, 7, 16, 40, 300])
def test_softmax_of_masks_infinities_and_nan(length):
    """Of an infinity or NaN the whole row is NaN; what underflows is 0, or nearly."""
    x = np.random.default_rng(3).normal(0, 3, (9, length)).astype(np.float32)
    x[1, : length - 1] = -np.inf
    x[2, :] = -np.inf
    x[4, length // 2] = np.nan
    x[5, 0] = np.inf
    x[6, :] = -3.4e38
    x[7, length - 1] = 3e38
    want = softmax(x)
    for got in on_every_isa(SOFTMAX, [x]):
        np.testing.assert_allclose(got, want, rtol=2e-6, atol=1e-37)
    with np.errstate(divide="ignore"):
        want = np.where(want == 0, x - x.max(-1, keepdims=True), np.log(want))
    for got in on_every_isa(LOG_SOFTMAX, [x]):
        np.testing.assert_allclose(got, want, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("length", [*LENGTHS, 20000])
def test_log_softmax(length):
    rng = np.random.default_rng(length)
    for rows in ROWS if length < 20000 else (2,):
        x = rng.normal(0, 6, (rows, length)).astype(np.float32)
        want = np.log(softmax(x))
        for header in ("tile_program 1\n", STRICT):
            for got in on_every_isa(LOG_SOFTMAX.replace("tile_program 1\n", header), [x]):
                np.testing.assert_allclose(got, want, rtol=1e-6, atol=2e-6)


@pytest.mark.parametrize("length", [*LENGTHS, 20000])
@pytest.mark.parametrize("biased", [True, False])
def test_rms_norm_with_epsilon(length, biased):
    """One row of scales for all rows, and what is stored beside the result."""
    bias = "%9 = load b (j)\n%10 = add %8 %9\n" if biased else ""
    text = (
        f"{HEAD}input g f32[N] row\ninput b f32[N] row\noutput y f32[M, N] row\n"
        "stage i: M, j: N\n%0 = load x (i, j)\n%1 = mul %0 %0\n%2 = reduce_sum %1 over j\n"
        f"%3 = const f32 {length}\n%4 = div %2 %3\n%5 = const f32 1e-06\n%6 = add %4 %5\n"
        "%7 = sqrt %6\n%8 = div %0 %7\n%11 = load g (j)\n%12 = mul %8 %11\n"
        + bias.replace("%8", "%12") + f"store y (i, j) %{10 if biased else 12}\n"
    )  # fmt: skip
    rng = np.random.default_rng(length)
    g, b = rng.normal(0, 1, (2, length)).astype(np.float32)
    for rows in ROWS if length < 20000 else (2,):
        x = rng.normal(1, 2, (rows, length)).astype(np.float32)
        wide = x.astype(np.float64)
        want = wide / np.sqrt((wide**2).mean(-1, keepdims=True) + 1e-6) * g + b * biased
        for got in on_every_isa(renumbered(text.split("\n")), [x, g, b]):
            np.testing.assert_allclose(got, want, rtol=3e-6, atol=2e-6)


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("form", ["over", "times", "rows", "all"])
def test_layer_norm(length, form):
    rng = np.random.default_rng(length)
    text = layer_norm(length, form)
    for rows in ROWS:
        x = rng.normal(0.5, 2, (rows, length)).astype(np.float32)
        shape = {"rows": (2, rows), "all": (2, rows, length)}.get(form, (2, length))
        g, b = rng.normal(0, 1, shape).astype(np.float32)
        wide = [a[:, None] if form == "rows" else a for a in (g.astype(float), b.astype(float))]
        want = normed(x.astype(np.float64), *wide)
        for header in ("tile_program 1\n", STRICT):
            for got in on_every_isa(text.replace("tile_program 1\n", header), [x, g, b]):
                np.testing.assert_allclose(got, want, rtol=2e-5, atol=1e-5)


@pytest.mark.parametrize("length", [16, 96, 770, 5000])
def test_layer_norm_far_from_zero(length):
    """The mean is taken away before squares are summed: 1000 times the deviation costs 10 bits."""
    rng = np.random.default_rng(length)
    x = rng.normal(100, 0.1, (30, length)).astype(np.float32)
    g, b = rng.normal(0, 1, (2, length)).astype(np.float32)
    want = normed(*(a.astype(np.float64) for a in (x, g, b)))
    for got in on_every_isa(layer_norm(length), [x, g, b]):
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-3)


def test_centred_values_that_leave_are_stored():
    rng = np.random.default_rng(0)
    x = rng.normal(0.5, 2, (30, 70)).astype(np.float32)
    g, b = rng.normal(0, 1, (2, 70)).astype(np.float32)
    text = layer_norm(70).replace("output y", "output c f32[M, N] row\noutput y", 1)
    text = text.replace("%5 = mul %4 %4", "store c (i, j) %4\n%5 = mul %4 %4")
    for isa in native_lib.isas():
        centred, got = native_lib.server(isa).run(text, [x, g, b])
        wide = x.astype(np.float64)
        np.testing.assert_allclose(centred, wide - wide.mean(-1, keepdims=True), atol=1e-6)
        np.testing.assert_allclose(got, normed(wide, g, b), rtol=2e-5, atol=1e-5)


def test_layer_norm_keeps_nan_and_infinities_in_their_rows():
    x = np.random.default_rng(1).normal(0, 1, (6, 50)).astype(np.float32)
    x[1, 3], x[3, 7], x[4] = np.nan, np.inf, 1e25
    g, b = np.ones((2, 50), np.float32)
    for got in on_every_isa(layer_norm(50), [x, g, b]):
        assert np.isnan(got[[1, 3]]).all()
        assert np.isfinite(got[[0, 2, 5]]).all()


@pytest.mark.parametrize("length", LENGTHS)
def test_rms_norm_divides_as_division_does(length):
    """Quotients are rounded as a division rounds them, also of numbers at the ends of the range."""
    rng = np.random.default_rng(length)
    g = np.full(length, 2, np.float32)  # exact, so that only the quotient is rounded
    for size in (1.0, 1e-12, 1e12, 1e-18, 1e17):
        x = (rng.normal(0, 1, (11, length)) * size).astype(np.float32)
        for isa in native_lib.isas():
            (got,) = native_lib.server(isa).run(RMS.replace("1\n", "1 strict\n", 1), [x, g], 1)
            root = np.sqrt((x.astype(np.float64) ** 2).sum(-1, keepdims=True))
            np.testing.assert_allclose(got, 2 * x / root, rtol=3e-6, atol=1e-30)


def test_a_bias_along_rows_and_one_for_each_row():
    rng = np.random.default_rng(0)
    for rows, length in ((300, 7), (40, 96), (3, 3000), (2000, 1)):
        x = rng.normal(0, 1, (rows, length)).astype(np.float32)
        for extent, letter, axis in (("N", "j", 1), ("M", "i", 0)):
            b = rng.normal(0, 1, x.shape[axis]).astype(np.float32)
            text = (
                f"{HEAD}input b f32[{extent}] row\noutput y f32[M, N] row\nstage i: M, j: N\n"
                f"%0 = load x (i, j)\n%1 = load b ({letter})\n%2 = add %0 %1\n"
                "%3 = exp %2\n%4 = sub %3 %1\nstore y (i, j) %4\n"
            )
            wide = b.astype(np.float64)[None, :] if axis else b.astype(np.float64)[:, None]
            want = np.exp(x + wide) - wide
            for got in on_every_isa(text, [x, b]):
                np.testing.assert_allclose(got, want, rtol=3e-6, atol=3e-6)


def test_a_number_is_not_one_for_each_row():
    rng = np.random.default_rng(0)
    for rows, length in ((40, 30), (7, 500), (3, 3000)):
        x = rng.normal(0, 1, (rows, length)).astype(np.float32)
        g, b = rng.normal(0, 1, (2, length)).astype(np.float32)
        for op, number in (("div", 3.0), ("mul", 0.3)):
            text = (
                f"{HEAD}input g f32[N] row\ninput b f32[N] row\noutput y f32[M, N] row\n"
                "stage i: M, j: N\n%0 = load x (i, j)\n%1 = reduce_max %0 over j\n"
                f"%2 = const f32 {number}\n%3 = {op} %0 %2\n%4 = load g (j)\n%5 = mul %3 %4\n"
                "%6 = load b (j)\n%7 = add %5 %6\n%8 = add %7 %1\nstore y (i, j) %8\n"
            )
            factor = 1 / number if op == "div" else np.float64(np.float32(number))
            want = x * factor * g.astype(np.float64) + b + x.max(-1, keepdims=True)
            for got in on_every_isa(text, [x, g, b]):
                np.testing.assert_allclose(got, want, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize(("count", "width"), [(300, 64), (5, 768), (1000, 9), (17, 5000), (3, 1)])
def test_rows_are_gathered_and_added(count, width):
    rng = np.random.default_rng(0)
    table = rng.normal(0, 1, (50, width)).astype(np.float32)
    other = rng.normal(0, 1, (count, width)).astype(np.float32)
    index = rng.integers(-50, 50, count)
    head = (
        "tile_program 1\ninput t f32[V, N] row\ninput k i64[M] row\ninput o f32[M, N] row\n"
        "output y f32[M, N] row\nstage i: M, j: N\n%0 = load k (i)\n%1 = index V\n"
        "%2 = add %0 %1\n%3 = index 0\n%4 = lt %0 %3\n%5 = where %4 %2 %0\n%6 = load t (%5, j)\n"
    )
    plain = f"{head}store y (i, j) %6\n"
    more = f"{head}%7 = load o (i, j)\n%8 = add %6 %7\n%9 = mul %8 %8\nstore y (i, j) %9\n"
    for got in on_every_isa(plain, [table, index, other]):
        np.testing.assert_array_equal(got, table[index])
    for got in on_every_isa(more, [table, index, other]):
        np.testing.assert_allclose(got, (table[index] + other) ** 2, rtol=1e-6)
    index[count // 2] = 50
    for isa in native_lib.isas():
        with pytest.raises(native_lib.NativeError, match="out of range"):
            native_lib.server(isa).run(plain, [table, index, other], 1)


@pytest.mark.parametrize("many", range(200, 1700, 300))
def test_an_index_may_be_a_value_of_any_number(many):
    """There are more values than the kernel keeps: constants that are equal are one. Many loads,
    so that what is counted outside is likely to end the process."""
    lines = [f"%{k} = const i64 0" for k in range(many)]
    at, total = many, None
    for column in range(60):
        lines += [
            f"%{at} = load k (i, {column})",
            f"%{at + 1} = max %{at} %0",
            f"%{at + 2} = load t (%{at + 1}, j)",
        ]
        at += 3
        if total is not None:
            lines.append(f"%{at} = add %{total} %{at - 1}")
            at += 1
        total = at - 1
    text = "\n".join(
        ["tile_program 1", "input t f32[5, 4] row", "input k i64[3, 60] row",
         "output y f32[3, 4] row", "stage i: 3, j: 4", *lines, f"store y (i, j) %{total}", ""]
    )  # fmt: skip
    table = np.arange(20, dtype=np.float32).reshape(5, 4)
    index = np.random.default_rng(0).integers(-2, 5, (3, 60))
    for got in on_every_isa(text, [table, index]):
        np.testing.assert_array_equal(got, table[np.maximum(index, 0)].sum(1))


@pytest.mark.parametrize("kind", ["max", "min"])
def test_extremes_of_rows_with_nan_and_infinities(kind):
    for length in (1, 3, 8, 15, 16, 17, 31, 48, 49, 70, 300, 5000):
        x = np.random.default_rng(length).normal(size=(9, length)).astype(np.float32)
        x[1, length // 2] = x[2, -1] = x[3, 0] = np.nan
        x[4, -1], x[5, 0], x[6], x[7] = np.inf, -np.inf, -np.inf, np.inf
        text = (
            f"tile_program 1\ninput x f32[9, {length}] row\noutput y f32[9] row\n"
            f"stage i: 9, j: {length}\n%0 = load x (i, j)\n%1 = reduce_{kind} %0 over j\n"
            "store y (i) %1\n"
        )
        want = getattr(np, kind)(x, axis=1)
        for isa in native_lib.isas():
            np.testing.assert_array_equal(native_lib.server(isa).run(text, [x], 1)[0], want)


@pytest.mark.parametrize("shape", [(2, 11), (50, 40), (100, 33), (3000, 64), (700, 8), (9, 2000)])
@pytest.mark.parametrize("across", [False, True])
def test_norms_of_columns(shape, across):
    """Some positions of a column are a tile, or all of them; rows of few elements are columns that
    lie apart."""
    x = np.random.default_rng(0).normal(1, 1, shape if across else shape[::-1]).astype(np.float32)
    index = "(j, i)" if across else "(i, j)"
    text = (
        (
            f"tile_program 1\ninput x f32[A, B] row\noutput y f32[A, B] row\noutput z f32[M] row\n"
            f"stage i: M, j: N\n%0 = load x {index}\n%1 = reduce_sum %0 over j\n"
            f"%2 = const f32 {shape[0]}\n%3 = div %1 %2\n%4 = sub %0 %3\n%5 = mul %4 %4\n"
            "%6 = reduce_sum %5 over j\n%7 = div %6 %2\n%8 = const f32 1e-05\n%9 = add %7 %8\n"
            f"%10 = sqrt %9\n%11 = div %4 %10\nstore y {index} %11\nstore z (i) %7\n"
        )
        .replace("M", "AB"[across])
        .replace("N", "BA"[across])
    )
    axis = 0 if across else 1
    wide = x.astype(np.float64)
    variance = wide.var(axis, keepdims=True)
    want = (wide - wide.mean(axis, keepdims=True)) / np.sqrt(variance + 1e-5)
    for isa in native_lib.isas():
        got, spread = native_lib.server(isa).run(text, [x], 1)
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(spread, variance.ravel(), rtol=3e-6)
