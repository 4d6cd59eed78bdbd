"""Products by Strassen's seven products in the native library against float64, on every ISA.

Sizes are above those from which it is chosen, and such that chunks of rows, pairs, panels, blocks
of k and both halves of the columns are cut at the borders.
"""

from __future__ import annotations

import native_lib
import numpy as np
import pytest

RNG = np.random.default_rng(22)
GELU = """%5 = const f32 0.5
%6 = mul %4 %5
%7 = const f32 0.70710678
%8 = mul %4 %7
%9 = erf %8
%10 = const f32 1
%11 = add %9 %10
%12 = mul %6 %11
"""


def values(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape, dtype=np.float32)


def text_of(m, k, n, turned=(False, False), gelu=False, strict=False):
    """Return the program of x w + b; `turned` are the weights and the result."""
    return f"""tile_program 1{" strict" if strict else ""}
input x f32[{m}, {k}] row
input w f32[{f"{n}, {k}" if turned[0] else f"{k}, {n}"}] row
input b f32[{n}] row
output y f32[{f"{n}, {m}" if turned[1] else f"{m}, {n}"}] row
stage i: {m}, j: {n}, k: {k}
%0 = load x (i, k)
%1 = load w ({"j, k" if turned[0] else "k, j"})
%2 = dot %0 %1 over k
%3 = load b (j)
%4 = add %2 %3
{GELU if gelu else ""}store y ({"j, i" if turned[1] else "i, j"}) %{12 if gelu else 4}
"""


def gelu_of(x):
    from math import erf, sqrt

    return x * 0.5 * (1 + np.vectorize(erf)(x / sqrt(2)))


def errors(got, want):
    """Return each row's largest error over the row's largest value."""
    return np.abs(got - want).max(axis=1) / np.abs(want).max(axis=1)


SIZES = ((128, 768, 2304), (97, 1602, 1500), (301, 1300, 1205), (65, 2400, 2301), (483, 1200, 1210))


@pytest.mark.parametrize("m,k,n", SIZES)
@pytest.mark.parametrize("turned", ((False, False), (True, True)))
def test_products(m, k, n, turned):
    x, w, b = values(m, k), values(k, n), values(n)
    want = x.astype(np.float64) @ w + b
    arrays = [x, np.ascontiguousarray(w.T) if turned[0] else w, b]
    for isa in native_lib.isas():
        for threads in (1, 3):
            (got,) = native_lib.server(isa).run(text_of(m, k, n, turned), arrays, threads, (1,))
            assert errors(got.T if turned[1] else got, want).max() < 6e-6, (isa, threads)


def test_an_epilogue_runs_over_both_halves():
    m, k, n = 131, 1200, 1530
    x, w, b = values(m, k), values(k, n) / k**0.5, values(n)
    want = gelu_of(x.astype(np.float64) @ w + b)
    for isa in native_lib.isas():
        (got,) = native_lib.server(isa).run(text_of(m, k, n, gelu=True), [x, w, b], 2, (1,))
        assert errors(got, want).max() < 6e-6, isa


ENDS = {
    "bias": ("add %2 %3", "row", ()),
    "residual": ("add %2 %3", "row", ("%5 = load z (i, j)", "%6 = add %4 %5")),
    "relu_residual": (
        "add %2 %3",
        "row",
        (
            "%5 = load z (i, j)",
            "%6 = add %4 %5",
            "%7 = const f32 0",
            "%8 = max %6 %7",
            "%9 = const f32 30",
            "%10 = min %8 %9",
        ),
    ),
    "late_residual": (
        "add %2 %3",
        "row",
        ("%5 = sigmoid %4", "%6 = mul %4 %5", "%7 = load z (i, j)", "%8 = add %6 %7"),
    ),
    "rows": ("add %2 %3", "column", ()),
    "rows_tanh": ("add %2 %3", "column", ("%5 = tanh %4",)),
    "gain": ("mul %2 %3", "row", ("%5 = load z (i, j)", "%6 = add %4 %5")),
    "late_gain": (
        "add %2 %3",
        "row",
        ("%5 = tanh %4", "%6 = load b (j)", "%7 = mul %5 %6", "%8 = load b (j)", "%9 = add %7 %8"),
    ),
    "other": ("add %2 %3", "row", ("%5 = cos %4", "%6 = mul %5 %4")),
}


def end_of(name, y, b, z):
    """Return what the lines make of the product."""
    y = y * b if name == "gain" else y + b
    if name == "other":
        return np.cos(y) * y
    if name == "late_gain":
        return np.tanh(y) * b + b
    if name == "late_residual":
        return y / (1 + np.exp(-y)) + z
    y = y + z if "residual" in name or name == "gain" else y
    return np.clip(y, 0, 30) if name.startswith("relu") else np.tanh(y) if "tanh" in name else y


@pytest.mark.parametrize("name", ENDS)
@pytest.mark.parametrize("m,k,n", ((129, 1600, 1177), (259, 1604, 1120)))
def test_every_end_of_a_product(name, m, k, n):
    first, along, lines = ENDS[name]
    x, w, z = values(m, k), values(k, n) / k**0.5, values(m, n)
    b = values(n if along == "row" else m)
    last = lines[-1].split()[0] if lines else "%4"
    body = "\n".join((*lines, ""))
    text = f"""tile_program 1
input x f32[{m}, {k}] row
input w f32[{k}, {n}] row
input b f32[{len(b)}] row
input z f32[{m}, {n}] row
output y f32[{m}, {n}] row
stage i: {m}, j: {n}, k: {k}
%0 = load x (i, k)
%1 = load w (k, j)
%2 = dot %0 %1 over k
%3 = load b ({"j" if along == "row" else "i"})
%4 = {first}
{body}store y (i, j) {last}
"""
    want = end_of(name, x.astype(np.float64) @ w, b if along == "row" else b[:, None], z)
    for isa in native_lib.isas():
        for threads in (1, 2):
            (got,) = native_lib.server(isa).run(text, [x, w, b, z], threads, (1,))
            assert errors(got, want).max() < 1e-5, (isa, threads)


def test_strict_programs_multiply_plainly():
    m, k, n = 128, 1024, 1536
    arrays = [values(m, k), values(k, n), values(n)]
    for isa in native_lib.isas():
        results = [
            native_lib.server(isa).run(text_of(m, k, n, strict=strict), arrays, 1, (1,))[0]
            for strict in (False, True)
        ]
        assert not np.array_equal(*results), isa  # or the rest of this file tests nothing
        want = arrays[0].astype(np.float64) @ arrays[1] + arrays[2]
        assert errors(results[1], want).max() < 1.5e-6, isa


def test_rows_of_any_magnitude_keep_their_accuracy():
    m, k, n = 131, 1024, 1536
    w, b = values(k, n), np.zeros(n, np.float32)
    scale = np.ones(m)
    scale[[3, 64, 77]] = 1e6, 1e-7, 3e4  # each beside ordinary ones
    scale[100:120] = 10.0 ** np.arange(-10, 10)
    x = (values(m, k) * scale[:, None]).astype(np.float32)
    x[5] = 0
    x[40, k // 2 :] = 0
    want = x.astype(np.float64) @ w
    for isa in native_lib.isas():
        (got,) = native_lib.server(isa).run(text_of(m, k, n), [x, w, b], 1, (1,))
        assert not got[5].any()
        rest = np.arange(m) != 5
        assert errors(got[rest], want[rest]).max() < 1.5e-5, isa  # eight times an even pair's


@pytest.mark.parametrize("bad", (np.nan, np.inf, -np.inf))
def test_what_is_not_finite_stays_in_its_row(bad):
    m, k, n = 128, 1024, 1536
    x, w, b = values(m, k), values(k, n), values(n)
    want = x.astype(np.float64) @ w + b
    x[[7, 90], [11, 700]] = bad
    rest = np.ones(m, bool)
    rest[[7, 90]] = False
    for isa in native_lib.isas():
        (got,) = native_lib.server(isa).run(text_of(m, k, n), [x, w, b], 1, (1,))
        assert not np.isfinite(got[~rest]).any()
        assert errors(got[rest], want[rest]).max() < 6e-6, isa
