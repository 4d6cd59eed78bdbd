"""Stages that only move elements, on every instruction set, against NumPy's own."""

from __future__ import annotations

import itertools

import native_lib
import numpy as np
import pytest

HEAD = "tile_program 1\n"
DTYPES = {"f32": np.float32, "u8": np.uint8, "f16": np.float16, "i64": np.int64}


def numbers(shape: tuple[int, ...], dtype: str) -> np.ndarray:
    size = int(np.prod(shape))
    return (np.arange(size) * 7 % 251).astype(DTYPES[dtype]).reshape(shape)


def run_everywhere(text: str, inputs: list[np.ndarray], want: np.ndarray) -> None:
    for isa in native_lib.isas():
        for threads in (1, 3):
            (got,) = native_lib.server(isa).run(text, inputs, threads)
            np.testing.assert_array_equal(got, want, err_msg=f"{isa}, {threads} threads")


def transposed(dtype: str, rank: int, perm: tuple[int, ...]) -> str:
    dims, letters = "ABCD"[:rank], "abcd"[:rank]
    return (
        f"{HEAD}input x {dtype}[{', '.join(dims)}] row\n"
        f"output y {dtype}[{', '.join(dims[p] for p in perm)}] row\n"
        f"stage {', '.join(f'{letter}: {d}' for letter, d in zip(letters, dims, strict=True))}\n"
        f"%0 = load x ({', '.join(letters)})\nstore y ({', '.join(letters[p] for p in perm)}) %0\n"
    )


EXTENTS = (1, 2, 3, 4, 5, 7, 8, 11, 12, 16, 17, 20, 23, 31, 33, 49, 64)


@pytest.mark.parametrize("rows", EXTENTS)
def test_planes_of_any_extents_are_transposed(rows):
    for columns in EXTENTS:
        x = numbers((2, rows, columns), "f32")
        run_everywhere(transposed("f32", 3, (0, 2, 1)), [x], x.transpose(0, 2, 1).copy())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "shape", [(2, 3, 40, 50), (3, 17, 9, 64), (1, 64, 13, 2), (5, 4, 3, 2), (1, 200, 7, 7)]
)
def test_every_permutation_of_four_dims(dtype, shape):
    x = numbers(shape, dtype)
    for perm in itertools.permutations(range(4)):
        run_everywhere(transposed(dtype, 4, perm), [x], x.transpose(perm).copy())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [1, 2, 3, 5, 8, 13, 16, 31, 32, 63, 65, 127, 600])
def test_rows_of_any_width_are_cut_out(dtype, width):
    x = numbers((70, width + 3), dtype)
    text = (
        f"{HEAD}input x {dtype}[A, B] row\noutput y {dtype}[A - 2, B - 3] row\n"
        "stage i: A - 2, j: B - 3\n%0 = load x (i + 1, j + 2)\nstore y (i, j) %0\n"
    )
    run_everywhere(text, [x], x[1:-1, 2:-1].copy())


@pytest.mark.parametrize("shape", [(80, 60), (3, 5000), (5000, 2)])
def test_padding_is_cut_into_pieces(shape):
    x = numbers(shape, "f32")
    text = (
        f"{HEAD}input x f32[A, B] row\noutput y f32[A + 3, B + 5] row\n"
        "stage i: A + 3, j: B + 5\n%0 = load x (i - 1, j - 4) else 9.5\nstore y (i, j) %0\n"
    )
    run_everywhere(text, [x], np.pad(x, ((1, 2), (4, 1)), constant_values=9.5))


@pytest.mark.parametrize("widths", [(1, 300), (64, 32), (7, 1), (500, 500)])
def test_pieces_side_by_side(widths):
    a, b = numbers((33, widths[0]), "f32"), -numbers((33, widths[1]), "f32")
    text = (
        f"{HEAD}input a f32[N, A] row\ninput b f32[N, B] row\noutput y f32[N, A + B] row\n"
        "stage i: N, j: A + B\n%0 = load a (i, j) else 0\n%1 = load b (i, j - A) else 0\n"
        "%2 = select (j < A) %0 %1\nstore y (i, j) %2\n"
    )
    run_everywhere(text, [a, b], np.concatenate([a, b], 1))


def test_a_row_and_a_column_are_repeated_and_reversed():
    x = numbers((90,), "f32")
    head = f"{HEAD}input x f32[N] row\noutput y f32[N, N] row\nstage i: N, j: N\n"
    run_everywhere(f"{head}%0 = load x (j)\nstore y (i, j) %0\n", [x], np.tile(x, (90, 1)))
    run_everywhere(f"{head}%0 = load x (i)\nstore y (i, j) %0\n", [x], np.tile(x[:, None], (1, 90)))
    run_everywhere(
        f"{head}%0 = load x (N - 1 - j)\nstore y (i, j) %0\n", [x], np.tile(x[::-1], (90, 1))
    )
    run_everywhere(f"{head}%0 = const f32 2.5\nstore y (i, j) %0\n", [x], np.full((90, 90), 2.5))


def test_one_load_is_stored_twice():
    x = numbers((50, 70), "f32")
    text = (
        f"{HEAD}input x f32[A, B] row\noutput y f32[A, B] row\noutput z f32[B, A] row\n"
        "stage i: A, j: B\n%0 = load x (i, j)\nstore y (i, j) %0\nstore z (j, i) %0\n"
    )
    for isa in native_lib.isas():
        y, z = native_lib.server(isa).run(text, [x], 2)
        np.testing.assert_array_equal(y, x)
        np.testing.assert_array_equal(z, x.T)
