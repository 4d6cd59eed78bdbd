"""Native functions against float64, special values, zero sizes, and what binding refuses."""

from __future__ import annotations

import concurrent.futures
import math

import native_lib
import numpy as np
import pytest
from native_lib import NativeError, run

HEAD = "tile_program 1\n"


def unary(op: str, dtype: str = "f32") -> str:
    return (
        f"{HEAD}input x {dtype}[N] row\noutput y {dtype}[N] row\nstage i: N\n"
        f"%0 = load x (i)\n%1 = {op} %0\nstore y (i) %1\n"
    )


def on_every_isa(text: str, inputs: list[np.ndarray]) -> list[np.ndarray]:
    return [native_lib.server(name).run(text, inputs)[0] for name in native_lib.isas()]


def erf(x: np.ndarray) -> np.ndarray:
    return np.array([math.erf(v) for v in x])


FUNCTIONS = {
    "exp": (np.exp, -87, 88, 4, 0.0),
    "log": (np.log, 1e-30, 1e30, 4, 0.0),
    "sigmoid": (lambda x: 1 / (1 + np.exp(-x)), -80, 80, 4, 0.0),
    "tanh": (np.tanh, -12, 12, 4, 5e-7),
    "erf": (erf, -5, 5, 4, 5e-7),
    "sin": (np.sin, -40000, 40000, 4, 2e-7),
    "cos": (np.cos, -40000, 40000, 4, 2e-7),
    "tan": (np.tan, -1.5, 1.5, 8, 0.0),
    "asin": (np.arcsin, -1, 1, 8, 0.0),
    "acos": (np.arccos, -1, 1, 8, 0.0),
    "atan": (np.arctan, -50, 50, 8, 0.0),
    "sinh": (np.sinh, -20, 20, 8, 0.0),
    "cosh": (np.cosh, -20, 20, 8, 0.0),
    "asinh": (np.arcsinh, -50, 50, 8, 0.0),
    "acosh": (np.arccosh, 1, 50, 8, 0.0),
    "atanh": (np.arctanh, -0.99, 0.99, 8, 0.0),
    "sqrt": (np.sqrt, 0, 1e6, 0.5, 0.0),
}


def ulps_at(name, ulps, x):
    """Return the units in the last place allowed: below 0 a sigmoid has 6 + |x| more."""
    return ulps + (np.where(x < 0, 6 - x, 0) if name in ("sigmoid", "silu") else 0)


@pytest.mark.parametrize("op", FUNCTIONS)
def test_functions_are_within_the_specification_s_error(op):
    function, low, high, ulps, absolute = FUNCTIONS[op]
    rng = np.random.default_rng(0)
    x = rng.uniform(low, high, 20000)
    tiny = rng.uniform(-1, 1, 4000) * 10.0 ** rng.uniform(-20, 0, 4000)
    wide = np.exp(rng.uniform(math.log(max(low, 1e-30)), math.log(high), 4000))
    x = np.concatenate([x, tiny[(tiny >= low) & (tiny <= high)], wide]).astype(np.float32)
    x = x[(x >= low) & (x <= high)]
    want = function(x.astype(np.float64))
    bound = np.maximum(ulps_at(op, ulps, x) * np.spacing(np.abs(want).astype(np.float32)), absolute)
    for got in on_every_isa(unary(op), [x]):
        error = np.abs(got.astype(np.float64) - want)
        worst = np.argmax(error / bound)
        assert error[worst] <= bound[worst] * 1.001, (x[worst], got[worst], want[worst])


@pytest.mark.parametrize(
    ("op", "pairs"),
    [
        ("exp", [(np.inf, np.inf), (-np.inf, 0), (np.nan, np.nan), (0, 1), (-0.0, 1), (89, np.inf),
                 (-200, 0), (3e38, np.inf), (88.7, np.exp(np.float64(np.float32(88.7))))]),
        ("log", [(np.inf, np.inf), (0, -np.inf), (-0.0, -np.inf), (-1, np.nan), (np.nan, np.nan),
                 (-np.inf, np.nan), (1, 0), (1e-40, math.log(float(np.float32(1e-40))))]),
        ("sigmoid", [(np.inf, 1), (-np.inf, 0), (np.nan, np.nan), (0, 0.5), (-1e30, 0)]),
        ("tanh", [(np.inf, 1), (-np.inf, -1), (np.nan, np.nan), (-0.0, -0.0), (1e-40, 1e-40)]),
        ("erf", [(np.inf, 1), (-np.inf, -1), (np.nan, np.nan), (0, 0), (-0.0, -0.0)]),
        ("sin", [(np.inf, np.nan), (np.nan, np.nan), (3e38, math.sin(float(np.float32(3e38))))]),
        ("sin", [(0.0, 0.0), (1e-30, 1e-30), (1e5, math.sin(1e5))]),
        ("cos", [(np.inf, np.nan), (-np.inf, np.nan), (0, 1), (1e10, math.cos(1e10))]),
        ("sign", [(np.nan, np.nan), (-3, -1), (1e-40, 1), (np.inf, 1)]),
        ("round", [(0.5, 0), (1.5, 2), (2.5, 2), (-0.5, -0.0), (8388609, 8388609)]),
        ("abs", [(-0.0, 0.0), (-np.inf, np.inf), (np.nan, np.nan)]),
    ],
)  # fmt: skip
def test_special_values(op, pairs):
    x = np.array([a for a, _ in pairs] * 20, np.float32)
    want = np.array([b for _, b in pairs] * 20, np.float32)
    for got in on_every_isa(unary(op), [x]):
        np.testing.assert_allclose(got, want, rtol=5e-7, atol=1e-38)
        zeros = want == 0
        if op != "exp":
            np.testing.assert_array_equal(np.signbit(got[zeros]), np.signbit(want[zeros]))


@pytest.mark.parametrize("op", ["min", "max"])
@pytest.mark.parametrize("count", [1, 5, 16, 33, 1000])
def test_nan_wins_wherever_it_stands(op, count):
    binary = (
        f"{HEAD}input a f32[N] row\ninput b f32[N] row\noutput y f32[N] row\nstage i: N\n"
        f"%0 = load a (i)\n%1 = load b (i)\n%2 = {op} %0 %1\nstore y (i) %2\n"
    )
    reduced = (
        f"{HEAD}input a f32[N] row\noutput y f32[1] row\nstage i: N\n"
        f"%0 = load a (i)\n%1 = reduce_{op} %0 over i\nstore y (0) %1\n"
    )
    a, b = np.ones(count, np.float32), np.ones(count, np.float32)
    a[count // 2] = np.nan
    for got in on_every_isa(binary, [a, b]) + on_every_isa(binary, [b, a]):
        np.testing.assert_array_equal(np.isnan(got), np.isnan(a))
    for got in on_every_isa(reduced, [a]):
        assert np.isnan(got[0])


@pytest.mark.parametrize("threads", [1, 4])
def test_long_sums_keep_their_digits(threads):
    rng = np.random.default_rng(0)
    x = rng.uniform(0, 1, (200_000, 3)).astype(np.float32)
    for text, axis in (
        ("stage i: M, j: N\n%0 = load x (i, j)\n%1 = reduce_sum %0 over i\nstore y (j) %1\n", 0),
        ("stage i: N, j: M\n%0 = load x (j, i)\n%1 = mul %0 %0\n%2 = reduce_sum %1 over j\n"
         "store y (i) %2\n", 0),
    ):  # fmt: skip
        whole = f"{HEAD}input x f32[M, N] row\noutput y f32[N] row\n{text}"
        value = x.astype(np.float64) ** (2 if "mul" in text else 1)
        got = run(whole, [x], threads)[0]
        np.testing.assert_allclose(got, value.sum(axis), rtol=2e-6)


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (0, 0)])
def test_zero_sizes(shape):
    x = np.zeros(shape, np.float32)
    same = (
        f"{HEAD}input x f32[M, N] row\noutput y f32[M, N] row\nstage i: M, j: N\n"
        "%0 = load x (i, j)\n%1 = exp %0\nstore y (i, j) %1\n"
    )
    assert run(same, [x])[0].shape == shape
    for op, nothing in (("sum", 0), ("prod", 1), ("max", -np.inf), ("min", np.inf)):
        reduced = (
            f"{HEAD}input x f32[M, N] row\noutput y f32[M] row\nstage i: M, j: N\n"
            f"%0 = load x (i, j)\n%1 = reduce_{op} %0 over j\nstore y (i) %1\n"
        )
        np.testing.assert_array_equal(run(reduced, [x])[0], np.full(shape[0], nothing))
    product = (
        f"{HEAD}input x f32[M, K] row\ninput w f32[K, N] row\noutput y f32[M, N] row\n"
        "stage i: M, j: N, k: K\n%0 = load x (i, k)\n%1 = load w (k, j)\n%2 = dot %0 %1 over k\n"
        "store y (i, j) %2\n"
    )
    got = run(product, [x, np.ones((shape[1], 2), np.float32)])[0]
    np.testing.assert_array_equal(got, np.zeros((shape[0], 2)))


ADD = (
    f"{HEAD}input a f32[N] row\ninput b f32[N] row\noutput y f32[N] row\nstage i: N\n"
    "%0 = load a (i)\n%1 = load b (i)\n%2 = add %0 %1\nstore y (i) %2\n"
)
TAKE = (
    f"{HEAD}input x f32[V] row\ninput k i64[N] row\noutput y f32[N] row\nstage i: N\n"
    "%0 = load k (i)\n%1 = load x (%0)\nstore y (i) %1\n"
)


@pytest.mark.parametrize(
    ("text", "shapes", "reason"),
    [
        (ADD, [(3,), (4,)], r"dim 0 of input b is 4, the program needs 3"),
        (ADD, [(3,), (3, 1)], r"input b has rank 2, the program needs 1"),
        (ADD.replace("load b (i)", "load b (i + 1)"), [(3,), (3,)], r"spans \[1, 3\]"),
        (ADD.replace("y (i)", "y (i + 1)"), [(3,), (3,)], r"y spans \[1, 3\]"),
        (ADD.replace("y (i)", "y (2 * i)").replace("y f32[N]", "y f32[2 * N]"), [(3,), (3,)],
         r"digits"),
        (ADD.replace("y f32[N]", "y f32[N + 1]"), [(3,), (3,)], r"not all of tensor y"),
        (ADD.replace("y f32[N]", "y f32[N // (N - 3)]"), [(3,), (3,)], r"cannot be computed"),
        (ADD + "store y (i) %0\n", [(3,), (3,)], r"overlap"),
    ],
)  # fmt: skip
def test_shapes_that_do_not_bind(text, shapes, reason):
    with pytest.raises(NativeError, match=reason):
        run(text, [np.zeros(s, np.float32) for s in shapes])


def test_an_index_out_of_range_is_an_error_and_reads_nothing():
    x = np.arange(5, dtype=np.float32)
    np.testing.assert_array_equal(run(TAKE, [x, np.array([4, 0, 2])])[0], [4, 0, 2])
    for bad in (5, -1, 2**62, -(2**63)):
        with pytest.raises(NativeError, match="line 7: an index .* out of range"):
            run(TAKE, [x, np.array([0, bad, 1])])
    guarded = TAKE.replace("(%0)", "(%0) else 7")
    np.testing.assert_array_equal(run(guarded, [x, np.array([1, 5, -1])])[0], [1, 7, 7])


def test_many_shapes_through_one_kernel():
    kernel = native_lib.Kernel(ADD)
    for n in [*range(40), 3, 17, 3, 1000, 3]:
        a = np.arange(n, dtype=np.float32)
        np.testing.assert_array_equal(kernel.run([a, a])[0], a + a)


def test_one_kernel_from_many_threads_with_more_shapes_than_it_remembers():
    kernel = native_lib.Kernel(ADD)

    def work(seed: int) -> None:
        rng = np.random.default_rng(seed)
        for _ in range(60):
            a = rng.uniform(-1, 1, rng.integers(1, 24) * 97).astype(np.float32)
            np.testing.assert_array_equal(kernel.run([a, a], threads=2)[0], a + a)

    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        list(pool.map(work, range(6)))


SOFTPLUS = (
    "%0 = load x (i)\n%1 = abs %0\n%2 = neg %1\n%3 = exp %2\n%4 = const f32 0\n%5 = max %0 %4\n"
    "%6 = const f32 1\n%7 = add %3 %6\n%8 = sub %7 %6\n%9 = sub %8 %3\n%10 = div %9 %7\n"
    "%11 = log %7\n%12 = sub %11 %10\n%13 = add %5 %12\n"
)


def softplus(x: np.ndarray) -> np.ndarray:
    return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))


def gelu(x: np.ndarray) -> np.ndarray:
    return x * (erf(x / np.sqrt(2)) + 1) * 0.5


ACTIVATIONS = {
    "softplus": (SOFTPLUS + "store y (i) %13\n", softplus, 8, 1e-37),
    "tanh of softplus": (
        SOFTPLUS + "%14 = tanh %13\nstore y (i) %14\n", lambda x: np.tanh(softplus(x)), 8, 1e-37
    ),
    "mish": (
        SOFTPLUS + "%14 = tanh %13\n%15 = mul %0 %14\nstore y (i) %15\n",
        lambda x: x * np.tanh(softplus(x)), 10, 1e-35,
    ),
    "silu": (
        "%0 = load x (i)\n%1 = sigmoid %0\n%2 = mul %1 %0\nstore y (i) %2\n",
        lambda x: x / (1 + np.exp(-x)), 6, 1e-35,
    ),
    "gelu": (
        "%0 = load x (i)\n%1 = const f32 1.4142135\n%2 = div %0 %1\n%3 = erf %2\n"
        "%4 = const f32 1\n%5 = add %3 %4\n%6 = mul %0 %5\n%7 = const f32 0.5\n%8 = mul %6 %7\n"
        "store y (i) %8\n",
        gelu, 8, 3e-6,
    ),
    "scaled tanh plus one": (
        "%0 = load x (i)\n%1 = const f32 0.3\n%2 = mul %1 %0\n%3 = tanh %2\n%4 = const f32 1\n"
        "%5 = add %4 %3\nstore y (i) %5\n",
        lambda x: np.tanh(x * np.float64(np.float32(0.3))) + 1, 8, 6e-7,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_joined_into_one_pass(name):
    body, function, ulps, absolute = ACTIVATIONS[name]
    text = f"{HEAD}input x f32[N] row\noutput y f32[N] row\nstage i: N\n{body}"
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.uniform(-86, 86, 5000), rng.normal(0, 2, 5000), [0.0, -0.0, 1e-20]])
    x = x.astype(np.float32)
    want = function(x.astype(np.float64))
    unit = np.spacing(np.abs(want).astype(np.float32))
    bound = np.maximum(ulps_at(name, ulps, x) * unit, absolute)
    for got in on_every_isa(text, [x]):
        error = np.abs(got.astype(np.float64) - want)
        worst = np.argmax(error / bound)
        assert error[worst] <= bound[worst], (x[worst], got[worst], want[worst])
    ends = np.array([np.inf, 500, -500, np.nan], np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        want = function(ends.astype(np.float64))
    for got in on_every_isa(text, [ends]):
        np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-30)
