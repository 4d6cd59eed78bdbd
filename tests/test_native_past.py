"""Outputs written past the caches: every program of program_cases, and rows and lines of many
sizes, on every instruction set, from the first byte on."""

from __future__ import annotations

from itertools import product

import native_lib
import numpy as np
import pytest
from test_native_cases import BY_NAME, assert_close, expected
from test_native_rows import LOG_SOFTMAX, RMS, SOFTMAX, layer_norm, normed, softmax

SIZES = (16, 48, 49, 96, 192, 208, 512, 1000, 1024, 2048, 2064, 4096, 16384, 16400, 20003)
ROWS = (1, 2, 3, 4, 5, 23)


def written(text: str, inputs: list[np.ndarray], constant=()):
    """Yield the first output of every instruction set, aligned to a line and as it comes."""
    for isa, align in product(native_lib.isas(), (True, False)):
        for threads in (1, 3):
            yield native_lib.server(isa).run(text, inputs, threads, constant, 0, align)[0]


@pytest.mark.parametrize("name", BY_NAME)
def test_equals_the_interpreter(name):
    case = BY_NAME[name]
    inputs, want = expected(name)
    for isa, align in product(native_lib.isas(), (True, False)):
        got = native_lib.server(isa).run(case.text, inputs, 1 + 2 * align, (), 0, align)
        for g, w in zip(got, want, strict=True):
            assert_close(g, w, case)


@pytest.mark.parametrize("size", SIZES)
def test_rows_of_softmax(size):
    rng = np.random.default_rng(size)
    for rows in ROWS if size < 4096 else (1, 4):
        x = rng.normal(0, 3, (rows, size)).astype(np.float32)
        want = softmax(x)
        for got in written(SOFTMAX, [x]):
            np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-12)
        for got in written(LOG_SOFTMAX, [x]):
            np.testing.assert_allclose(got, np.log(want), rtol=1e-6, atol=4e-6)


@pytest.mark.parametrize("size", SIZES)
def test_rows_of_norms(size):
    rng = np.random.default_rng(size)
    for rows in ROWS if size < 4096 else (1, 4):
        x, g, b = (rng.normal(1, 2, s).astype(np.float32) for s in ((rows, size), (size,), (size,)))
        wide = x.astype(np.float64)
        for got in written(layer_norm(size), [x, g, b], (1, 2)):
            np.testing.assert_allclose(got, normed(wide, g, b), rtol=2e-6, atol=4e-6)
        want = wide / np.sqrt((wide**2).sum(-1, keepdims=True)) * g
        for got in written(RMS, [x, g]):
            np.testing.assert_allclose(got, want, rtol=2e-6, atol=1e-6)


CHAIN = (
    "tile_program 1\ninput x f32[N] row\noutput y f32[N] row\noutput z f32[N] row\nstage i: N\n"
    "%0 = load x (i)\n%1 = const f32 1.5\n%2 = mul %0 %1\n%3 = add %2 %0\n%4 = abs %3\n"
    "store z (i) %3\nstore y (i) %4\n"
)
SINGLE = (
    "tile_program 1\ninput x f32[N] row\noutput y f32[N] row\nstage i: N\n%0 = load x (i)\n"
    "%1 = neg %0\nstore y (i) %1\n"
)


@pytest.mark.parametrize("size", (1, 15, 16, 17, 63, 64, 65, 127, 128, 1000, 1023, 4096, 70001))
def test_elements_in_a_row(size):
    x = np.random.default_rng(size).normal(0, 1, size).astype(np.float32)
    for isa, align in product(native_lib.isas(), (True, False)):
        y, z = native_lib.server(isa).run(CHAIN, [x], 2, (), 0, align)
        np.testing.assert_allclose(z, 2.5 * x, rtol=1e-6)
        np.testing.assert_array_equal(y, np.abs(z))
    for got in written(SINGLE, [x]):
        np.testing.assert_array_equal(got, -x)


@pytest.mark.parametrize("dtype", ("uint8", "float16", "float32", "int64"))
def test_copies(dtype):
    short = {"uint8": "u8", "float16": "f16", "float32": "f32", "int64": "i64"}[dtype]
    for rows, left, right in ((1, 5000, 3), (7, 512, 130), (3, 40000, 700), (50, 33, 600)):
        text = (
            f"tile_program 1\ninput a {short}[{rows}, {left}] row\n"
            f"input b {short}[{rows}, {right}] row\noutput y {short}[{rows}, {left + right}] row\n"
            f"stage i: {rows}, j: {left}\n%0 = load a (i, j)\nstore y (i, j) %0\n"
            f"stage i: {rows}, j: {right}\n%0 = load b (i, j)\nstore y (i, {left} + j) %0\n"
        )
        rng = np.random.default_rng(left)
        a, b = (rng.integers(0, 99, (rows, n)).astype(dtype) for n in (left, right))
        for got in written(text, [a, b]):
            np.testing.assert_array_equal(got, np.concatenate([a, b], 1))


def test_a_next_stage_reads_what_was_written_past_the_caches():
    text = (
        "tile_program 1\ninput x f32[M, N] row\ntemp t f32[M, N] row\noutput y f32[M] row\n"
        "stage i: M, j: N\n%0 = load x (i, j)\n%1 = neg %0\n%2 = mul %1 %0\nstore t (i, j) %2\n"
        "stage i: M, j: N\n%0 = load t (i, j)\n%1 = reduce_sum %0 over j\nstore y (i) %1\n"
    )
    x = np.random.default_rng(0).normal(0, 1, (300, 1000)).astype(np.float32)
    want = -(x.astype(np.float64) ** 2).sum(1)
    for got in written(text, [x]):
        np.testing.assert_allclose(got, want, rtol=2e-6)
