"""Integer expressions: normal form, text, simplification, intervals, against Python integers."""

from __future__ import annotations

import pickle
import time

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from onnx_fusion.errors import ProgramError
from onnx_fusion.program import (
    as_int,
    const,
    dim,
    evaluate,
    interval,
    letter,
    maximum,
    minimum,
    simplify,
    substitute,
)
from onnx_fusion.program.expr import at_least_zero, build, read, show

N, B, S, H = map(dim, "NBSH")
a, b, d, h, i = map(letter, "abdhi")

DIMS, LETTERS = "NBS", "dhi"


def divisors():
    plain = st.integers(1, 12).map(lambda n: ("int", n))
    named = st.sampled_from(DIMS).map(lambda n: ("dim", n))
    product = st.tuples(st.just("*"), plain, named) | st.tuples(st.just("*"), named, named)
    return plain | named | product | st.tuples(st.just("+"), named, plain)


def trees():
    leaves = (
        st.integers(0, 20).map(lambda n: ("int", n))
        | st.sampled_from(DIMS).map(lambda n: ("dim", n))
        | st.sampled_from(LETTERS).map(lambda n: ("letter", n))
    )

    def grow(t):
        return (
            st.tuples(st.sampled_from(["+", "-", "+", "min", "max"]), t, t)
            | st.tuples(st.just("*"), t, st.one_of(divisors(), t))
            | st.tuples(st.sampled_from(["//", "%"]), t, divisors())
            | st.tuples(st.just("neg"), t)
        )

    return st.recursive(leaves, grow, max_leaves=12)


EXTENTS = st.one_of(st.integers(1, 9).map(const), st.sampled_from([N, B, S, N * B, N + 1]))


def plain(tree, env):
    """Evaluate with Python's own integers; None where a divisor is not positive."""
    kind = tree[0]
    if kind == "int":
        return tree[1]
    if kind in ("dim", "letter"):
        return env[tree[1]]
    sides = [plain(t, env) for t in tree[1:]]
    if None in sides:
        return None
    x, y = sides if len(sides) == 2 else (sides[0], 0)
    if kind in ("//", "%"):
        return None if y <= 0 else x // y if kind == "//" else x % y
    return {"neg": -x, "+": x + y, "-": x - y, "*": x * y, "min": min(x, y), "max": max(x, y)}[kind]


@settings(max_examples=400, deadline=None)
@given(trees(), st.data())
def test_normal_form_has_the_same_value(tree, data):
    env = {name: data.draw(st.integers(0, 9)) for name in DIMS + LETTERS}
    want = plain(tree, env)
    assume(want is not None)
    e = build(tree)
    assert evaluate(e, env) == want
    assert build(e.tree) == e
    assert show(build(e.tree).tree) == str(e)
    assert hash(read(tree, e.names())) == hash(e)
    assert read(tree, e.names()) == e


@settings(max_examples=1000, deadline=None)
@given(trees(), st.data())
def test_simplified_has_the_same_value_inside_the_ranges(tree, data):
    e = build(tree)
    ranges = {name: data.draw(EXTENTS) for name in LETTERS}
    simple = simplify(e, ranges)
    assert simplify(simple, ranges) == simple
    for _ in range(4):
        env = {name: data.draw(st.integers(0, 7)) for name in DIMS}
        counts = {name: evaluate(extent, env) for name, extent in ranges.items()}
        if any(counts[name] == 0 for name in e.letters()):
            continue
        env |= {n: data.draw(st.integers(0, max(counts[n] - 1, 0))) for n in LETTERS}
        want = plain(tree, env)
        if want is not None:
            assert evaluate(simple, env) == want
            if at_least_zero(e, ranges):
                assert want >= 0


@settings(max_examples=400, deadline=None)
@given(trees(), st.data())
def test_interval_holds_every_value(tree, data):
    e = read(tree, build(tree).names() | set(LETTERS))
    env = {name: data.draw(st.integers(0, 5)) for name in DIMS}
    ranges = {name: data.draw(st.integers(1, 5)) for name in LETTERS}
    try:
        low, high = interval(e, env, ranges)
    except ProgramError:
        assume(False)
    for _ in range(8):
        at = env | {name: data.draw(st.integers(0, n - 1)) for name, n in ranges.items()}
        assert low <= plain(tree, at) <= high


@settings(max_examples=200, deadline=None)
@given(trees(), trees(), st.sampled_from(DIMS + LETTERS), st.data())
def test_substitution_is_evaluation_in_two_steps(tree, inner, name, data):
    env = {n: data.draw(st.integers(0, 6)) for n in DIMS + LETTERS}
    value = plain(inner, env)
    assume(value is not None)
    want = plain(tree, env | {name: value})
    assume(want is not None)
    assert plain(substitute(build(tree), {name: build(inner)}).tree, env) == want


@pytest.mark.parametrize(
    ("expr", "text"),
    [
        (a + 1 - 1, "a"),
        (N * 4, "4 * N"),
        (64 * h + d, "64 * h + d"),
        (d + h * 64, "64 * h + d"),
        (2 * i + a - 1, "2 * i + a - 1"),
        (1 - i, "1 - i"),
        (-i - 1, "-i - 1"),
        (-2 * i, "-2 * i"),
        ((N - 1) * i + 3, "(N - 1) * i + 3"),
        (i * N + i, "(N + 1) * i"),
        (B * S * h + S * b + d, "B * S * h + S * b + d"),
        ((N + 1) * (N - 1), "N * N - 1"),
        ((H - 1) // 2 + 1, "(H + 1) // 2"),
        ((4 * i + 1) // 8, "i // 2"),
        ((4 * i + 1) % 8, "4 * (i % 2) + 1"),
        (i // 4 // 3, "i // 12"),
        (i % 12 % 4, "i % 4"),
        ((64 * h + d) // 64, "d // 64 + h"),
        ((64 * h + d) % 64, "d % 64"),
        ((h * B + b) // B, "b // B + h"),
        ((h * B + b) % B, "b % B"),
        (i // 1 + i % 1 + i * 0 + 0 * N, "i"),
        (minimum(i, i + 1), "i"),
        (maximum(i, i + 1), "i + 1"),
        (minimum(N, i) + maximum(3, 4), "min(N, i) + 4"),
        (const(-7) // 2, "-4"),
        (const(-7) % 2, "1"),
        (i - (N - (B - 1)), "i + B - N - 1"),
        (const(1 << 50), "1024 * 1099511627776"),
    ],
)
def test_printed(expr, text):
    assert str(expr) == text


@pytest.mark.parametrize(
    ("expr", "ranges", "want"),
    [
        ((64 * h + d) // 64, {"h": 12, "d": 64}, h),
        ((64 * h + d) % 64, {"h": 12, "d": 64}, d),
        ((h * B + b) // B, {"h": N, "b": B}, h),
        ((h * B + b) % B, {"h": N, "b": B}, b),
        (i // 4 * 4 + i % 4, {}, i),
        (i // 8 * 8 + i // 2 % 4 * 2 + i % 2, {}, i),
        (i % N, {"i": N}, i),
        ((h * B * S + b * S + d) // (B * S), {"h": N, "b": B, "d": S}, h),
        ((h * B * S + b * S + d) // S % B, {"h": N, "b": B, "d": S}, b),
        ((h * B * S + b * S + d) % S, {"h": N, "b": B, "d": S}, d),
        ((12 * h + 4 * b + d) // 4 % 3, {"h": N, "b": 3, "d": 4}, b),
        ((15 * i + a) // 5, {"i": 14, "a": 15}, 3 * i + a // 5),
        ((h * B + b) // (4 * B), {"h": N, "b": B}, h // 4),
        (minimum(i, N - 1), {"i": N}, i),
        (maximum(0, i - 3), {"i": 3}, const(0)),
        (i + a, {"a": 1}, i),
        ((i + 5) // 8, {"i": 3}, const(0)),
        ((i - 3) // 8, {"i": 3}, const(-1)),
        (((h * 7 + b) // 7) * 7 + (h * 7 + b) % 7, {"h": N, "b": 7}, 7 * h + b),
        ((i * (S + 1) + b) // (S + 1), {"b": S + 1}, i),
        (minimum(N, N + B), {}, N),
    ],
)
def test_simplified(expr, ranges, want):
    assert simplify(expr, ranges) == want


def test_nothing_is_assumed_of_signed_dims():
    e = maximum(N, 0)
    assert simplify(e, {}) == N
    assert simplify(e, {}, signed={"N"}) == e


def test_names_and_substitution():
    e = (i // N) * B + minimum(a, H)
    assert e.letters() == {"i", "a"}
    assert e.dims() == {"N", "B", "H"}
    assert substitute(e, {i: N * a + 1, "H": 2, "B": dim("S")}) == (
        (N * a + 1) // N * S + minimum(a, 2)
    )
    assert (e - e).letters() == set()


def test_values():
    assert as_int(const(3) * 4) == 12
    assert as_int(i) is None
    assert const(7) == 7
    assert hash(const(7)) == hash(7)
    assert np.int64(3) + i == 3 + i
    assert i * np.int32(2) == i + i
    assert pickle.loads(pickle.dumps((h * B + d) // S)) == (h * B + d) // S
    assert {N * 4: 1}[4 * N] == 1
    with pytest.raises(TypeError):
        i + 0.5
    with pytest.raises(TypeError):
        sorted([i, N])


@pytest.mark.parametrize("e", [i // N, i % N, i // (N - 2), i % -1, i // 0])
def test_divisors_must_be_positive(e):
    with pytest.raises(ProgramError, match="a divisor is -?[0-9]+, and must be positive"):
        evaluate(e, {"i": 3, "N": 0})


def test_limits_of_values():
    big = N * N
    assert evaluate(big, {"N": 1 << 30}) == 1 << 60
    with pytest.raises(ProgramError, match=r"'N \* N' is outside \+-2\^60"):
        evaluate(big, {"N": (1 << 30) + 1})
    with pytest.raises(ProgramError, match="dim 'N' has no value"):
        evaluate(N, {})


def test_intervals_follow_the_page():
    assert interval(i % 8, {}, {"i": 8}) == (0, 7)
    assert interval(i % 8, {}, {"i": 9}) == (0, 7)
    assert interval((i + 3) % 8, {}, {"i": 5}) == (3, 7)
    assert interval((i - 5) // 3, {}, {"i": 7}) == (-2, 0)
    text = ("*", ("-", ("letter", "i"), ("int", 2)), ("-", ("int", 3), ("letter", "a")))
    assert interval(read(text, "ia"), {}, {"i": 5, "a": 6}) == (-6, 6)
    assert interval(minimum(i, N), {"N": 4}, {"i": N * 2}) == (0, 4)


def test_construction_is_fast():
    start = time.process_time()
    for k in range(20000):
        64 * h + d + k
    assert time.process_time() - start < 2


def test_products_of_many_sums_stay_small():
    e = const(1)
    for k in range(40):
        e = e * (letter(f"a{k}") + letter(f"b{k}"))
    assert len(str(e)) < 5000
    env = {f"{n}{k}": k % 2 for n in "ab" for k in range(40)}
    assert evaluate(e, env) == 0
    assert build(e.tree) == e
    for f in (lambda e: (e * (a + b)) // 2, lambda e: e * 5 // 4, lambda e: (e + a) * 3 % 7):
        e = i
        for _ in range(30):
            e = f(e)
        assert len(str(e)) < 5000
