"""Binding: dims from shapes and data, and what a run must refuse before any element is read."""

from __future__ import annotations

import pytest

from onnx_fusion.errors import ProgramError
from onnx_fusion.program import bind, output_shapes, parse_program


def program(*lines: str) -> str:
    return "\n".join(["tile_program 1", *lines, ""])


def copy(index: str = "i", extent: str = "N") -> str:
    return program(
        "input x f32[N] row",
        "output y f32[N] row",
        f"stage i: {extent}",
        f"%0 = load x ({index})",
        "store y (i) %0",
    )


MATMUL = program(
    "input x f32[M, K] row",
    "input w f32[K, N] order(1, 0)",
    "dim P = M + N // 2",
    "output y f32[M, N] order(1, 0)",
    "stage i: M, j: N, k: K",
    "%0 = load x (i, k)",
    "%1 = load w (k, j)",
    "%2 = dot %0 %1 over k",
    "store y (i, j) %2",
)


def test_dims_and_physical_shapes():
    p = parse_program(MATMUL)
    dims = bind(p, [(2, 3), (5, 3)])
    assert dims == {"M": 2, "K": 3, "N": 5, "P": 4}
    assert output_shapes(p, dims) == [(5, 2)]
    assert bind(p, [(0, 3), (5, 3)])["M"] == 0
    assert bind(p, [(2, 0), (5, 0)])["K"] == 0


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ([(2, 3)], "1 inputs for a program with 2"),
        ([(2, 3, 4), (5, 3)], "line 2: input 'x' has rank 3, not 2"),
        ([(2, 3), (3, 5)], "line 3: dim 0 of input 'w' is 5, but K is 3"),
        ([(2**41, 1), (1, 1)], r"line 2: dim 0 of tensor 'x' is 2199023255552, outside"),
        ([(2**20, 2**20), (1, 2**20)], r"line 2: tensor 'x' of shape .* has 2\^40 elements"),
        ([(2**20, 1), (2**20, 1)], r"line 5: tensor 'y' of shape .* has 2\^40 elements"),
    ],
)
def test_shapes_that_contradict(shapes, message):
    with pytest.raises(ProgramError, match=f"^{message}"):
        bind(parse_program(MATMUL), shapes)


EXPAND = program(
    "input x f32[K] row",
    "input s i64[2] row as (A, B)",
    "output y f32[A, B] row",
    "stage i: A, j: B",
    "%0 = load x (j)",
    "store y (i, j) %0",
)


def test_dims_from_data():
    p = parse_program(EXPAND)
    assert bind(p, [(4,), (2,)], {1: [3, 4]}) == {"K": 4, "A": 3, "B": 4}
    assert output_shapes(p, bind(p, [(4,), (2,)], {1: [0, 4]})) == [(0, 4)]
    for data, message in [
        ([3, 5], r"line 6: index 0 of 'x', j, is in \[0, 4\], but the dim is 4"),
        ([3, -1], "line 4: dim 1 of tensor 'y' is -1"),
        ([2**61, 1], r"line 3: A is 2305843009213693952, outside \+-2\^60"),
        ([3], "line 3: input 's' must hold 2 numbers"),
    ]:
        with pytest.raises(ProgramError, match=f"^{message}"):
            bind(p, [(4,), (2,)], {1: data})
    with pytest.raises(ProgramError, match="line 3: input 's' must hold 2 numbers"):
        bind(p, [(4,), (2,)])
    known = parse_program(EXPAND.replace("as (A, B)", "as (A, K)").replace("B", "K"))
    assert bind(known, [(4,), (2,)], {1: [3, 4]}) == {"K": 4, "A": 3}
    with pytest.raises(ProgramError, match="line 3: input 's' holds 5 at 1, but K is 4"):
        bind(known, [(4,), (2,)], {1: [3, 5]})
    twice = parse_program(EXPAND.replace("as (A, B)", "as (A, A)").replace("B", "A"))
    with pytest.raises(ProgramError, match="line 3: input 's' holds 4 at 1, but A is 3"):
        bind(twice, [(4,), (2,)], {1: [3, 4]})
    rank0 = EXPAND.replace("i64[2] row as (A, B)", "i32[] row as (A)").replace("B", "3")
    assert bind(parse_program(rank0), [(4,), ()], {1: [-0]})["A"] == 0


@pytest.mark.parametrize(
    "index",
    [
        "i",
        "N - 1 - i",
        "i // 2",
        "i * 2 // 2",
        "i % 8",
        "(i + 3) % 8",
        "min(i, 3)",
        "max(i - 2, 0)",
        "i % 4 + i // 4",
        "(i - 8) // 2 + 4",
        "i * (N - 8 + 1)",
    ],
)
def test_indices_that_are_proved(index):
    bind(parse_program(copy(index)), [(8,)])


@pytest.mark.parametrize(
    ("index", "low", "high"),
    [
        ("i + 1", 1, 8),
        ("i - 1", -1, 6),
        ("2 * i", 0, 14),
        ("(i + 3) % 9", 0, 8),
        ("i // 2 - 1", -1, 2),
        ("i - i + i", -7, 14),
        ("max(i, 8)", 8, 8),
        ("i * (i - 6)", -42, 7),
    ],
)
def test_indices_that_are_not(index, low, high):
    with pytest.raises(ProgramError, match=rf"is in \[{low}, {high}\], but the dim is 8"):
        bind(parse_program(copy(index)), [(8,)])
    guarded = copy(index).replace(")\nstore", ") else 0\nstore")
    bind(parse_program(guarded), [(8,)])


def test_values_of_an_empty_letter_need_no_proof():
    bind(parse_program(copy("i + 99")), [(0,)])
    bind(parse_program(copy("i // (N - N)")), [(0,)])
    reduced = program(
        "input x f32[K] row",
        "input b f32[M] row",
        "output y f32[M] row",
        "stage i: M, k: K",
        "%0 = load x (k + 9)",
        "%1 = reduce_sum %0 over k",
        "%2 = load b (i + 1)",
        "%3 = add %1 %2",
        "store y (i) %3",
    )
    with pytest.raises(ProgramError, match="line 8: index 0 of 'b'"):
        bind(parse_program(reduced), [(0,), (3,)])
    bind(parse_program(reduced.replace("i + 1", "i")), [(0,), (3,)])
    with pytest.raises(ProgramError, match="line 6: index 0 of 'x'"):
        bind(parse_program(reduced.replace("i + 1", "i")), [(1,), (3,)])


def test_every_intermediate_result_is_bounded():
    wide = copy("i * 1099511627776 * 1099511627776 // 1099511627776")
    guarded = wide.replace(")\nstore", ") else 0\nstore")
    with pytest.raises(ProgramError, match=r"line 5: .* is outside \+-2\^60"):
        bind(parse_program(guarded), [(8,)])
    bind(parse_program(guarded), [(1,)])
    with pytest.raises(ProgramError, match="line 5: a divisor is 0, and must be positive"):
        bind(parse_program(copy("i % (N - 8)")), [(8,)])
    dims = copy().replace("output", "dim D = 1 // (N - 3)\noutput")
    with pytest.raises(ProgramError, match="line 3: a divisor is 0, and must be positive"):
        bind(parse_program(dims), [(3,)])


def test_letters_and_stages_are_limited():
    with pytest.raises(ProgramError, match="line 4: letter 'i' has extent -1, outside"):
        bind(parse_program(copy(extent="N - 4")), [(3,)])
    many = copy(extent="N, a: 1099511627776, b: 1099511627776")
    with pytest.raises(ProgramError, match=r"line 4: the stage has 2\^60 points or more"):
        bind(parse_program(many), [(3,)])
    bind(parse_program(many), [(0,)])


def stores(*maps: str, out: str = "N", letters: str = "i: N", value: str = "const f32 1") -> str:
    lines = [f"stage {letters}", f"%0 = {value}", *(f"store y ({m}) %0" for m in maps)]
    return program("input x f32[N] row", f"output y f32[{out}] row", *lines)


@pytest.mark.parametrize(
    "text",
    [
        stores("i"),
        stores("0 + i"),
        stores("2 * i + a", letters="i: N // 2, a: 2"),
        stores("4 * a + i", letters="i: N // 2, a: 2"),
        stores("a + i * 2 + 99 * b", letters="i: N // 2, a: 2, b: 1"),
        stores("i", "i + N", out="2 * N"),
        stores("i, 0", "i, 1", out="N, 2"),
        stores("0", letters="i: 1", out="1"),
        stores("", letters="i: N", out=""),
        stores("i", "12 - N + i", letters="i: 4"),
    ],
)
def test_stores_that_partition(text):
    bind(parse_program(text), [(8,)])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (stores("2 * i", out="2 * N"), "line 6: the letters of '2 \\* i' leave gaps or overlap"),
        (stores("2 * i + a", letters="i: 4, a: 3"), "line 6: .* leave gaps or overlap"),
        (stores("i + a", letters="i: 4, a: 2"), "line 6: .* leave gaps or overlap"),
        (stores("(N - 9) * i"), "line 6: .* leave gaps or overlap"),
        (stores("i + 1"), "line 6: dim 0 of 'y' is stored from 1 to 8, but is 8"),
        (stores("i - 1"), "line 6: dim 0 of 'y' is stored from -1 to 6, but is 8"),
        (stores("i", letters="i: 7"), "the stores of 'y' write 7 of its 8 elements"),
        (stores("i", "i"), "the stores of 'y' write 16 of its 8 elements"),
        (stores("i", "i + 3", letters="i: 4"), "two stores of 'y' overlap"),
        (stores("i", letters="i: 0"), "the stores of 'y' write 0 of its 8 elements"),
    ],
)
def test_stores_that_do_not(text, message):
    with pytest.raises(ProgramError, match=f"^{message}"):
        bind(parse_program(text), [(8,)])
