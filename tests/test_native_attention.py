"""Attention run as one kernel: against float64 and against the interpreter, on every ISA.

Each test also says whether the stages run as one, so that it cannot be lost unnoticed.
"""

from __future__ import annotations

import native_lib
import numpy as np
import pytest
from attention_programs import Attention, draw

from onnx_fusion.program import interpret, parse_program

MASK = ("m", "f32[{b}, 1, {i}, {j}]")
ADD = ("load m (b, 0, i, j)", "add first @1")


def assert_runs(
    text: str,
    inputs: list[np.ndarray],
    want: np.ndarray | None = None,
    plans: int = 1,
    loose: float = 1.0,
) -> np.ndarray:
    """Run on every ISA, one thread and three; return what is expected."""
    (meant,) = interpret(parse_program(text), inputs)
    if want is not None:
        np.testing.assert_allclose(meant, want, rtol=1e-4, atol=1e-5)
    want = meant if want is None else want
    assert native_lib.Kernel(text).plans(inputs) == plans
    finite = np.abs(want[np.isfinite(want)])
    scale = max(float(finite.max(initial=0.0)), 1e-3)
    for isa in native_lib.isas():
        for threads, constant in ((1, ()), (3, (1,))):
            (got,) = native_lib.server(isa).run(text, inputs, threads, constant)
            np.testing.assert_allclose(
                got, want, rtol=1e-5, atol=2e-6 * loose * scale, err_msg=f"{isa}, {threads} threads"
            )
    return want


def check(attention: Attention, plans: int = 1, seed: int = 0) -> np.ndarray:
    return assert_runs(attention.text(), attention.inputs(np.random.default_rng(seed)), None, plans)


SIZES = (
    (1, 1, 1, 2, 1, 1), (1, 2, 1, 7, 3, 5), (2, 3, 5, 9, 8, 7), (1, 2, 16, 16, 16, 16),
    (3, 2, 17, 31, 20, 24), (1, 1, 49, 49, 32, 32), (2, 1, 65, 33, 64, 64), (1, 2, 7, 128, 64, 50),
    (1, 1, 130, 100, 65, 1), (1, 4, 1, 197, 64, 64), (5, 1, 6, 48, 1, 47), (1, 1, 3, 1030, 9, 17),
)  # fmt: skip


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("keys_last", (False, True))
def test_ragged_sizes(sizes, keys_last):
    attention = Attention(*sizes, keys_last=keys_last)
    inputs = attention.inputs(np.random.default_rng(1))
    assert_runs(attention.text(), inputs, attention.expected(*inputs))


@pytest.mark.parametrize("how", ("low", "soft", "inf", "normal"))
@pytest.mark.parametrize("sizes", ((2, 3, 18, 21, 16, 24), (1, 2, 33, 64, 32, 16)))
def test_added_masks(sizes, how):
    attention = Attention(*sizes, extra=((*MASK, how),), score=ADD)
    inputs = attention.inputs(np.random.default_rng(2))
    assert_runs(attention.text(), inputs, attention.expected(*inputs))


@pytest.mark.parametrize(
    "shape,place",
    (
        ("{b}, 1, 1, {j}", "b, 0, 0, j"),
        ("1, {h}, {i}, {j}", "0, h, i, j"),
        ("{b}, {h}, {i}, 1", "b, h, i, 0"),
        ("{i}, {j}", "i, j"),
        ("", ""),
    ),
)
def test_masks_that_broadcast(shape, place):
    extra = (("m", f"f32[{shape}]", "normal"),)
    check(Attention(2, 3, 19, 23, 16, 8, extra=extra, score=(f"load m ({place})", "add first @1")))


def test_bias_and_mask():
    extra = (("m", "f32[{h}, {i}, {j}]", "normal"), ("n", "f32[{b}, {i}, {j}]", "soft"))
    score = ("load m (h, i, j)", "add first x", "load n (b, i, j)", "add @2 @1")
    attention = Attention(6, 3, 49, 49, 32, 32, extra=extra, score=score)
    inputs = attention.inputs(np.random.default_rng(3))
    bias, mask = inputs[3], inputs[4][:, None]
    want = attention.expected(*inputs[:3], bias, mask)
    assert_runs(attention.text(), inputs, want)
    third = (*score, "load m (h, i, j)", "add @2 @1")
    check(Attention(2, 3, 20, 11, 8, 8, extra=extra, score=third))


def test_rows_of_which_all_is_masked():
    """-inf everywhere is NaN, the lowest float everywhere is the mean: as the program says."""
    attention = Attention(1, 2, 20, 40, 16, 16, extra=((*MASK, "inf"),), score=ADD)
    inputs = attention.inputs(np.random.default_rng(4))
    inputs[3][0, 0, 3] = -np.inf
    inputs[3][0, 0, 5] = -3.4e38
    inputs[3][0, 0, 7, 11] = np.inf
    inputs[3][0, 0, 9, 39] = np.nan
    want = assert_runs(attention.text(), inputs)
    assert [i for i in range(20) if np.isnan(want[0, i]).all()] == [3, 7, 9]
    mean = inputs[2][0].mean(1).reshape(-1)
    np.testing.assert_allclose(want[0, 5], mean, atol=1e-6)


LOW = (-np.inf, -3.4028235e38, -1e9, -1e4, -200.0)


@pytest.mark.parametrize("low", LOW)
@pytest.mark.parametrize(
    "sizes", ((1, 2, 70, 70, 16, 24), (2, 1, 9, 100, 64, 16), (1, 3, 1, 50, 8, 8))
)
def test_rows_that_a_mask_ends(sizes, low):
    """Causal and padded: keys that count for nothing are left out, and none of the others."""
    attention = Attention(*sizes, extra=((*MASK, "normal"),), score=ADD)
    inputs = attention.inputs(np.random.default_rng(13))
    b, _, i, j, _, _ = sizes
    query, key = np.arange(i)[:, None], np.arange(j)
    causal = np.where(key <= query + j - i, 0, low).astype(np.float32)
    padded = np.where(key[None] < j // 3, 0, low).astype(np.float32)
    left = np.where(key[None] >= j // 2, 0, low).astype(np.float32)
    masks = [causal, padded]
    if low < -1e30:  # where all is masked, what is less low rounds the scores away
        masks += [np.minimum(causal, left), np.full((i, j), low, np.float32)]
    for mask in masks:
        inputs[3] = np.tile(mask, (b, 1, i // len(mask), 1))
        assert_runs(attention.text(), inputs)
    # One key of the masked ones comes back, for one row.
    inputs[3] = np.tile(padded, (b, 1, i, 1))
    inputs[3][..., i // 2, j - 2] = 0.5
    assert_runs(attention.text(), inputs, attention.expected(*inputs))


@pytest.mark.parametrize("which", (0, 1, 2, 3))
def test_masked_keys_that_are_not_finite(which):
    """0 times infinity is NaN, so what is masked counts where it is not finite."""
    attention = Attention(1, 2, 40, 40, 16, 16, extra=((*MASK, "normal"),), score=ADD)
    inputs = attention.inputs(np.random.default_rng(14))
    inputs[3][:] = np.triu(np.full((40, 40), -3e38, np.float32), 1)
    inputs[which][0, 0, 33, 5] = np.inf if which == 2 else np.nan
    assert_runs(attention.text(), inputs)
    # Scores that are as large as the mask.
    inputs = attention.inputs(np.random.default_rng(14))
    inputs[3][:] = np.triu(np.full((40, 40), -1e4, np.float32), 1)
    inputs[which][0, 0, 33] *= 1e4
    assert_runs(attention.text(), inputs)


SCORES = {
    "where": (("bool[{b}, 1, {i}, {j}]", "bool"),
              ("load m (b, 0, i, j)", "const f32 -3e38", "where @2 first x")),
    "where inf": (("bool[{b}, 1, 1, {j}]", "bool"),
                  ("load m (b, 0, 0, j)", "const f32 -inf", "where @2 first x")),
    "flags": (("i64[{b}, {j}]", "flags"),
              ("load m (b, j)", "cast bool x", "const f32 -1e+09", "where @2 first x")),
    "times": (("f32[{h}]", "normal"), ("load m (h)", "mul first x")),
    "divided": (("f32[1]", "normal"), ("const f32 1.7", "div first x", "load m (0)", "sub @2 @1")),
    "halved": (("f32[{i}, {j}]", "normal"), ("load m (i, j)", "add x first")),
    "tanh": (("f32[1]", "normal"), ("tanh first", "load m (0)", "mul @2 @1")),
}  # fmt: skip


@pytest.mark.parametrize("name", SCORES)
@pytest.mark.parametrize("scale", (None, 0.3))
def test_what_follows_the_scores(name, scale):
    (kind, how), score = SCORES[name]
    check(Attention(2, 2, 21, 37, 16, 9, scale=scale, extra=(("m", kind, how),), score=score))


def test_causal_masks_by_position():
    select = ("const f32 -inf", "select (j <= i) first x")
    check(Attention(1, 3, 40, 40, 16, 16, score=select))
    index = ("index j", "index i + 5", "le @2 @1", "const f32 -3e38", "where @2 first x")
    check(Attention(1, 3, 30, 35, 16, 16, score=index))


def test_what_surrounds_the_softmax():
    extra = (("m", "f32[{b}, {i}, {j}]", "inf"), ("n", "f32[{h}, {j}]", "normal"))
    masked = ("load m (b, i, j)", "add first x")
    no_nan = ("eq first first", "const f32 0", "where @2 first x")
    inputs_of = Attention(2, 3, 18, 25, 16, 16, extra=extra, exponent=masked, weight=no_nan)
    inputs = inputs_of.inputs(np.random.default_rng(5))
    inputs[3][1, 4] = -np.inf
    want = assert_runs(inputs_of.text(), inputs)
    assert (want[1, 4] == 0).all()
    check(
        Attention(2, 3, 18, 25, 16, 16, extra=extra[1:], weighing=("load n (h, j)", "mul first x"))
    )
    check(
        Attention(2, 3, 18, 25, 16, 16, extra=extra, score=masked, exponent=("neg first",),
                  weight=no_nan, weighing=("load n (h, j)", "mul first x"))
    )  # fmt: skip


def test_computed_operands_and_result():
    extra = (
        ("m", "f32[{h}, {d}]", "normal"),
        ("n", "f32[{b}, {i}, {h}, {e}]", "normal"),
    )
    check(
        Attention(2, 2, 19, 35, 24, 20, extra=extra, query=("load m (h, d)", "add first x"),
                  key=("load m (h, d)", "add first x", "tanh x"),
                  result=("load n (b, i, h, e)", "add first x", "sigmoid x"))
    )  # fmt: skip


@pytest.mark.parametrize("rows,keys", ((5, 9001), (40, 1301)))
def test_rows_longer_than_a_block(rows, keys):
    """Keys come block by block, what was summed is rescaled; a block of -inf counts for nothing."""
    attention = Attention(1, 2, rows, keys, 8, 12, extra=((*MASK, "soft"),), score=ADD)
    inputs = attention.inputs(np.random.default_rng(6))
    mask = inputs[3]
    mask[0, 0, 0, : keys * 5 // 9] = -np.inf
    mask[0, 0, 1, keys // 3 :] = -np.inf
    mask[0, 0, 2] = -np.inf
    mask[0, 0, 3] += np.arange(keys) / 100
    want = assert_runs(attention.text(), inputs, attention.expected(*inputs), loose=4)
    assert np.isnan(want[0, 2]).all() and not np.isnan(want[0, :2]).any()
    where = ("load m (b, 0, i, j)", "abs x", "mul first x")
    check(Attention(1, 1, 3, 5000, 8, 8, extra=((*MASK, "normal"),), score=where))


def packed(width: int, heads: str, head: str, key: str, column: str) -> str:
    """Return the program of attention over one tensor that holds queries, keys and values."""
    return f"""tile_program 1
input x f32[2, 30, {width}] row
temp t0 f32[2, 6, 30, 30] row
temp t1 f32[2, 6, 30, 30] row
output y f32[2, 30, 96] row
stage b: 2, {heads}, i: 30, j: 30, d: 16
%0 = load x (b, i, {column} + d)
%1 = load x (b, j, 96 + 16 * ({key}) + d)
%2 = dot %0 %1 over d
store t0 (b, {head}, i, j) %2
stage b: 2, h: 6, i: 30, j: 30
%0 = load t0 (b, h, i, j)
%1 = reduce_max %0 over j
%2 = sub %0 %1
%3 = exp %2
%4 = reduce_sum %3 over j
%5 = div %3 %4
store t1 (b, h, i, j) %5
stage b: 2, i: 30, {heads}, e: 16, j: 30
%0 = load t1 (b, {head}, i, j)
%1 = load x (b, j, {width - 16 * (width - 96) // 32} + 16 * ({key}) + e)
%2 = dot %0 %1 over j
store y (b, i, {column} + e) %2
"""


@pytest.mark.parametrize(
    "width,heads,head,key,column",
    (
        (288, "h: 6", "h", "h", "16 * h"),
        (160, "h: 2, g: 3", "3 * h + g", "h", "48 * h + 16 * g"),
        (160, "h: 6", "h", "h // 3", "16 * h"),
        (128, "h: 6", "h", "0", "16 * h"),
    ),
)
def test_packed_tensors_and_shared_keys(width, heads, head, key, column):
    text = packed(width, heads, head, key, column)
    assert_runs(text, [draw(np.random.default_rng(7), (2, 30, width), "normal") / 2])


LAYOUTS = (
    # temps' types, places of the scores in stages 1 and 2, 2 and 3; kernels
    ("[2, 3, 20, 12] row", "b, h, i, j", 1),
    ("[2, 20, 3, 12] row", "b, i, h, j", 1),
    ("[20, 2, 3, 12] row", "i, b, h, j", 1),
    ("[2, 3, 20, 12] order(2, 0, 1, 3)", "b, h, i, j", 1),
    ("[6, 20, 12] row", "3 * b + h, i, j", 1),
    ("[2, 3, 20, 12] order(0, 1, 3, 2)", "b, h, i, j", 3),
)


@pytest.mark.parametrize("kind,place,plans", LAYOUTS)
def test_layouts_of_the_scores(kind, place, plans):
    text = f"""tile_program 1
input q f32[2, 3, 20, 8] row
input k f32[2, 3, 12, 8] row
input v f32[2, 12, 3, 5] row
temp t0 f32{kind}
temp t1 f32{kind}
output y f32[2, 3, 5, 20] row
stage b: 2, h: 3, i: 20, j: 12, d: 8
%0 = load q (b, h, i, d)
%1 = load k (b, h, j, d)
%2 = dot %1 %0 over d
store t0 ({place}) %2
stage b: 2, h: 3, i: 20, j: 12
%0 = load t0 ({place})
%1 = reduce_max %0 over j
%2 = sub %0 %1
%3 = exp %2
%4 = reduce_sum %3 over j
%5 = div %3 %4
store t1 ({place}) %5
stage b: 2, h: 3, e: 5, i: 20, j: 12
%0 = load t1 ({place})
%1 = load v (b, j, h, e)
%2 = dot %1 %0 over j
store y (b, h, e, i) %2
"""
    rng = np.random.default_rng(8)
    inputs = [draw(rng, s, "normal") for s in ((2, 3, 20, 8), (2, 3, 12, 8), (2, 12, 3, 5))]
    assert_runs(text, inputs, None, plans)


def test_windows_whose_mask_splits_the_batch():
    """Swin: the scores' first stage knows images and windows, the others only their product."""
    text = """tile_program 1
input q f32[8, 3, 9, 16] row
input k f32[8, 3, 9, 16] row
input v f32[8, 3, 9, 16] row
input m f32[4, 9, 9] row
temp t0 f32[8, 3, 9, 9] row
temp t1 f32[8, 3, 9, 9] row
output y f32[8, 9, 48] row
stage a: 2, w: 4, h: 3, i: 9, j: 9, d: 16
%0 = load q (4 * a + w, h, i, d)
%1 = load k (4 * a + w, h, j, d)
%2 = dot %0 %1 over d
%3 = load m (w, i, j)
%4 = add %2 %3
store t0 (4 * a + w, h, i, j) %4
stage b: 8, h: 3, i: 9, j: 9
%0 = load t0 (b, h, i, j)
%1 = reduce_max %0 over j
%2 = sub %0 %1
%3 = exp %2
%4 = reduce_sum %3 over j
%5 = div %3 %4
store t1 (b, h, i, j) %5
stage b: 8, i: 9, h: 3, e: 16, j: 9
%0 = load t1 (b, h, i, j)
%1 = load v (b, h, j, e)
%2 = dot %0 %1 over j
store y (b, i, 16 * h + e) %2
"""
    rng = np.random.default_rng(9)
    inputs = [draw(rng, (8, 3, 9, 16), "normal") for _ in range(3)]
    assert_runs(text, [*inputs, draw(rng, (4, 9, 9), "soft")])


def test_neighbours_that_stay_in_memory():
    """What an attention reads is needed to its last stage, what it writes from its first one on."""
    text = Attention(1, 2, 24, 24, 8, 8).text()
    text = text.replace("output y", "temp y").replace("load q", "load t2")
    text = text.replace("temp t0", "temp t2 f32[1, 2, 24, 8] row\ntemp t0")
    temps, stages = text.split("\nstage", 1)
    first = "stage b: 1, h: 2, i: 24, d: 8\n%0 = load q (b, h, i, d)\n%1 = neg %0\n"
    first += "store t2 (b, h, i, d) %1\nstage"
    last = "stage b: 1, i: 24, c: 16\n%0 = load y (b, i, c)\n%1 = neg %0\nstore z (b, i, c) %1\n"
    text = temps + "\noutput z f32[1, 24, 16] row\n" + first + stages + last
    inputs = Attention(1, 2, 24, 24, 8, 8).inputs(np.random.default_rng(10))
    assert_runs(text, inputs, None, 3)


NOT_ATTENTION = {
    "strict": ("tile_program 1", "tile_program 1 strict"),
    "softmax over another letter": ("reduce_max %0 over j", "reduce_max %0 over i"),
    "no softmax": ("%2 = sub %0 %1", "%2 = sub %1 %0"),
    "scores are an output": ("temp t0 f32[1, 2, 6, 6] row\n", ""),
}


@pytest.mark.parametrize("name", NOT_ATTENTION)
def test_stages_that_stay_apart(name):
    text = Attention(1, 2, 6, 6, 8, 8).text().replace("output y f32[1, 6, 16] row", "{}")
    text = text.replace(*NOT_ATTENTION[name])
    outputs = ["output y f32[1, 6, 16] row"]
    if name.startswith("softmax"):
        text = text.replace("%4 = reduce_sum %3 over j", "%4 = reduce_sum %3 over i")
    if name.startswith("scores"):
        outputs.insert(0, "output t0 f32[1, 2, 6, 6] row")
    inputs = Attention(1, 2, 6, 6, 8, 8).inputs(np.random.default_rng(11))
    text = text.format("\n".join(outputs))
    wants = interpret(parse_program(text), inputs)
    assert native_lib.Kernel(text).plans(inputs) == 3
    for isa in native_lib.isas():
        for got, want in zip(native_lib.server(isa).run(text, inputs), wants, strict=True):
            np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


def test_shapes_change_between_runs():
    """The same kernel, with 1 key (three stages) and more (one)."""
    text = Attention(1, 2, 4, 999, 8, 8).text().replace("999", "J")
    kernel = native_lib.Kernel(text)
    rng = np.random.default_rng(12)
    for keys, plans in ((1, 3), (2, 1), (77, 1), (1, 3), (300, 1)):
        attention = Attention(1, 2, 4, keys, 8, 8)
        inputs = attention.inputs(rng)
        assert kernel.plans(inputs) == plans
        np.testing.assert_allclose(
            kernel.run(inputs)[0], attention.expected(*inputs), rtol=1e-4, atol=1e-5
        )
