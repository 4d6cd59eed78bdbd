"""What follows a contraction and is done in registers or in one pass, against the interpreter.

Columns lie around the vectors' lengths; a k above one block takes the path through sums.
"""

from __future__ import annotations

import native_lib
import numpy as np
import pytest

from onnx_fusion.program import interpret, parse_program

RNG = np.random.default_rng(21)

# Lines from the biased sum %4 on, the number of the last one in {}.
ACTIVATIONS = {
    "none": ("", 4),
    "hard_swish": (
        "%5 = const f32 0.16666667\n%6 = mul %4 %5\n%7 = const f32 0.5\n%8 = add %6 %7\n"
        "%9 = const f32 0\n%10 = max %8 %9\n%11 = const f32 1\n%12 = min %11 %10\n"
        "%13 = mul %12 %4\n", 13,
    ),
    "hard_sigmoid": (
        "%5 = const f32 0.2\n%6 = mul %4 %5\n%7 = const f32 0.5\n%8 = add %7 %6\n"
        "%9 = const f32 0\n%10 = max %8 %9\n%11 = const f32 1\n%12 = min %10 %11\n", 12,
    ),
    "leaky": (
        "%5 = const f32 0.1\n%6 = mul %4 %5\n%7 = const f32 0\n%8 = lt %4 %7\n"
        "%9 = where %8 %6 %4\n", 9,
    ),
    "prelu": (
        "%5 = load b (j)\n%6 = const f32 0\n%7 = lt %4 %6\n%8 = mul %4 %5\n"
        "%9 = where %7 %8 %4\n", 9,
    ),
    "prelu_scaled": (
        "%5 = load b (j)\n%6 = const f32 0\n%7 = lt %4 %6\n%8 = mul %5 %4\n"
        "%9 = where %7 %8 %4\n%10 = const f32 -1.5\n%11 = mul %9 %10\n", 11,
    ),
    "prelu_by_rows": (
        "%5 = load x (i, 0)\n%6 = const f32 0\n%7 = lt %4 %6\n%8 = mul %4 %5\n"
        "%9 = where %7 %8 %4\n", 9,
    ),
    "not_prelu": (
        "%5 = load b (j)\n%6 = const f32 0\n%7 = lt %4 %6\n%8 = mul %4 %5\n"
        "%9 = where %7 %4 %8\n", 9,
    ),
    "sigmoid": ("%5 = sigmoid %4\n", 5),
    "tanh": ("%5 = tanh %4\n", 5),
    "silu": ("%5 = sigmoid %4\n%6 = mul %4 %5\n", 6),
    "mish": (
        "%5 = abs %4\n%6 = neg %5\n%7 = exp %6\n%8 = const f32 0\n%9 = max %4 %8\n"
        "%10 = const f32 1\n%11 = add %7 %10\n%12 = sub %11 %10\n%13 = sub %12 %7\n"
        "%14 = div %13 %11\n%15 = log %11\n%16 = sub %15 %14\n%17 = add %9 %16\n"
        "%18 = tanh %17\n%19 = mul %4 %18\n", 19,
    ),
    "gelu": (
        "%5 = const f32 0.5\n%6 = mul %4 %5\n%7 = const f32 0.70710677\n%8 = mul %4 %7\n"
        "%9 = erf %8\n%10 = const f32 1\n%11 = add %9 %10\n%12 = mul %6 %11\n", 12,
    ),
    "gelu_tanh": (
        "%5 = const f32 0.5\n%6 = mul %4 %5\n%7 = mul %4 %4\n%8 = const f32 0.044715\n"
        "%9 = mul %4 %8\n%10 = mul %7 %9\n%11 = add %4 %10\n%12 = const f32 0.7978846\n"
        "%13 = mul %11 %12\n%14 = tanh %13\n%15 = const f32 1\n%16 = add %14 %15\n"
        "%17 = mul %6 %16\n", 17,
    ),
    "gelu_tanh_factored": (
        "%5 = const f32 0.044715\n%6 = mul %5 %4\n%7 = mul %4 %6\n%8 = const f32 1\n"
        "%9 = add %7 %8\n%10 = mul %4 %9\n%11 = const f32 0.7978846\n%12 = mul %11 %10\n"
        "%13 = tanh %12\n%14 = add %8 %13\n%15 = const f32 0.5\n%16 = mul %15 %14\n"
        "%17 = mul %4 %16\n", 17,
    ),
    "hard_swish_scaled": (
        "%5 = const f32 0.16666667\n%6 = mul %4 %5\n%7 = const f32 0.5\n%8 = add %6 %7\n"
        "%9 = const f32 0\n%10 = max %8 %9\n%11 = const f32 1\n%12 = min %11 %10\n"
        "%13 = mul %12 %4\n%14 = const f32 -1.75\n%15 = mul %14 %13\n%16 = const f32 0.3\n"
        "%17 = add %15 %16\n", 17,
    ),
    "relu_scaled": (
        "%5 = const f32 0\n%6 = max %4 %5\n%7 = const f32 2.5\n%8 = mul %6 %7\n"
        "%9 = const f32 -0.25\n%10 = add %8 %9\n", 10,
    ),
    "sigmoid_scaled": (
        "%5 = sigmoid %4\n%6 = const f32 2\n%7 = mul %5 %6\n%8 = const f32 -1\n"
        "%9 = add %7 %8\n", 9,
    ),
    "shift_then_tanh": ("%5 = const f32 0.7\n%6 = add %4 %5\n%7 = tanh %6\n", 7),
    "shift_then_scale": (
        "%5 = const f32 0.7\n%6 = add %4 %5\n%7 = const f32 3\n%8 = mul %6 %7\n", 8,
    ),
    "clamp_then_silu": (
        "%5 = const f32 -1\n%6 = max %4 %5\n%7 = sigmoid %6\n%8 = mul %6 %7\n", 8,
    ),
    # Like an activation, and none: the constants, the operands or the order differ.
    "not_gelu": (
        "%5 = const f32 0.5\n%6 = mul %4 %5\n%7 = const f32 0.7\n%8 = mul %4 %7\n"
        "%9 = erf %8\n%10 = const f32 2\n%11 = add %9 %10\n%12 = mul %6 %11\n", 12,
    ),
    "not_mish": (
        "%5 = abs %4\n%6 = neg %5\n%7 = exp %6\n%8 = const f32 0\n%9 = max %4 %8\n"
        "%10 = const f32 1\n%11 = add %7 %10\n%12 = sub %11 %10\n%13 = sub %7 %12\n"
        "%14 = div %13 %11\n%15 = log %11\n%16 = sub %15 %14\n%17 = add %9 %16\n"
        "%18 = tanh %17\n%19 = mul %4 %18\n", 19,
    ),
    "not_silu": ("%5 = sigmoid %4\n%6 = mul %5 %5\n", 6),
    "not_leaky": (
        "%5 = const f32 0.1\n%6 = mul %4 %5\n%7 = const f32 0\n%8 = lt %7 %4\n"
        "%9 = where %8 %6 %4\n", 9,
    ),
    "relu": ("%5 = const f32 0\n%6 = max %4 %5\n", 6),
}  # fmt: skip

# A gain and a bias of each column after the activation, as a BatchNormalization there leaves them.
GAINED = ("relu", "hard_swish", "hard_sigmoid", "prelu", "silu", "mish", "gelu", "sigmoid_scaled")
for name in GAINED:
    lines, last = ACTIVATIONS[name]
    gain = f"%{last + 1} = load b (j)\n%{last + 2} = mul %{last} %{last + 1}\n"
    bias = f"%{last + 3} = load b (j)\n%{last + 4} = add %{last + 2} %{last + 3}\n"
    ACTIVATIONS[f"{name}_gained"] = (lines + gain + bias, last + 4)
    ACTIVATIONS[f"{name}_scaled_by_columns"] = (lines + gain, last + 2)


def product(m: int, k: int, n: int, activation: str, residual: str, turned: bool) -> str:
    """Return x @ w + b, activated; `residual` is "", "early" or "late"."""
    lines, last = ACTIVATIONS[activation]
    place = "j, i" if turned else "i, j"
    shape = f"{n}, {m}" if turned else f"{m}, {n}"
    load = f"load r ({place})"
    if residual == "early":
        lines = lines.replace("%4 ", "%X ").replace("%4\n", "%X\n")
        numbers = {f"%{i}": f"%{i + 2}" for i in range(5, last + 1)}
        lines = "".join(
            " ".join(numbers.get(w, w) for w in line.split(" ")) + "\n"
            for line in lines.splitlines()
        ).replace("%X", "%6")
        lines, last = f"%5 = {load}\n%6 = add %4 %5\n{lines}", last + 2
    elif residual == "late":
        lines, last = (
            f"{lines}%{last + 1} = {load}\n%{last + 2} = add %{last} %{last + 1}\n",
            last + 2,
        )
    also = f"input r f32[{shape}] row\n" if residual else ""
    return f"""tile_program 1
input x f32[{m}, {k}] row
input w f32[{k}, {n}] row
input b f32[{n}] row
{also}output y f32[{shape}] row
stage i: {m}, j: {n}, k: {k}
%0 = load x (i, k)
%1 = load w (k, j)
%2 = dot %0 %1 over k
%3 = load b (j)
%4 = add %2 %3
{lines}store y ({place}) %{last}
"""


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("residual", ["", "early", "late"])
def test_activations_equal_the_interpreter(activation, residual):
    for m, k, n, turned in (
        (7, 20, 37, False), (1, 33, 50, False), (2, 9, 100, False), (60, 800, 24, False),
        (19, 12, 40, True),
    ):  # fmt: skip
        text = product(m, k, n, activation, residual, turned)
        shapes = ((m, k), (k, n), (n,), (n, m) if turned else (m, n))
        inputs = [RNG.uniform(-1, 1, s).astype(np.float32) for s in shapes]
        inputs[1] *= 6 / k**0.5
        inputs = inputs if residual else inputs[:3]
        (want,) = interpret(parse_program(text), inputs)
        for isa in native_lib.isas():
            for threads, constant in ((1, (1, 2)), (2, ())):
                (got,) = native_lib.server(isa).run(text, inputs, threads, constant)
                np.testing.assert_allclose(
                    got, want, rtol=2e-6, atol=1e-6 * k**0.5, err_msg=f"{isa} {m}"
                )


# What follows a product in pieces: the result's rows and columns do not each lie evenly in memory.
PIECES = """tile_program 1
input x f32[{h}, {w}, {k}] row
input m f32[{k}, {n}, 2, 2] row
input b f32[{n}] row
{more}output y {y}
stage i: {h}, a: 2, j: {w}, c: 2, o: {n}, k: {k}
%0 = load x (i, j, k)
%1 = load m (k, o, a, c)
%2 = dot %0 %1 over k
{end}"""
BIASED = "%3 = load b (o)\n%4 = add %2 %3\n%5 = const f32 0\n%6 = max %4 %5\n"
SHIFTED = "%3 = const f32 -0.5\n%4 = add %2 %3\n%5 = sigmoid %4\n"
LAST = "(o, 2 * i + a, 2 * j + c)"


@pytest.mark.parametrize(
    "h, w, k, n", [(3, 5, 24, 24), (4, 20, 9, 1), (2, 33, 40, 7), (9, 16, 3, 8)]
)
def test_scattered_results_equal_the_interpreter(h, w, k, n):
    last = f"f32[{n}, {2 * h}, {2 * w}] order(1, 2, 0)"
    rows = f"f32[{n}, {2 * h}, {2 * w}] row"
    for y, more, end in (
        (last, "", f"{BIASED}store y {LAST} %6\n"),
        (rows, "", f"{SHIFTED}store y {LAST} %5\n"),
        (last, f"output z {last}\n", f"{BIASED}store y {LAST} %6\nstore z {LAST} %6\n"),
        (rows, f"output z f32[{n}, {h}, {4 * w}] row\n",
         f"{BIASED}store z (o, i, {2 * w} * a + 2 * j + c) %6\nstore y {LAST} %6\n"),
    ):  # fmt: skip
        text = PIECES.format(h=h, w=w, k=k, n=n, y=y, more=more, end=end)
        inputs = [RNG.uniform(-1, 1, s).astype(np.float32) for s in ((h, w, k), (k, n, 2, 2), (n,))]
        want = interpret(parse_program(text), inputs)
        for isa in native_lib.isas():
            for threads in (1, 2):
                got = native_lib.server(isa).run(text, inputs, threads, (1, 2))
                for one, other in zip(got, want, strict=True):
                    np.testing.assert_allclose(one, other, rtol=2e-6, atol=1e-5, err_msg=isa)


@pytest.mark.parametrize("n", [1, 3, 8, 20])
def test_short_rows_with_bias_and_residual_equal_the_interpreter(n):
    text = product(700, 12, n, "hard_swish_scaled", "late", False)
    shapes = ((700, 12), (12, n), (n,), (700, n))
    inputs = [RNG.uniform(-1, 1, s).astype(np.float32) for s in shapes]
    (want,) = interpret(parse_program(text), inputs)
    for isa in native_lib.isas():
        (got,) = native_lib.server(isa).run(text, inputs, 1, (1, 2))
        np.testing.assert_allclose(got, want, rtol=2e-6, atol=1e-5, err_msg=isa)


# Lines from the biased sum %4 on: gain and shift along columns, a residual before or after them.
GAINS = {
    "gain": ("%5 = load g (j)\n%6 = mul %4 %5\n", 6),
    "gain_shift": ("%5 = load g (j)\n%6 = mul %5 %4\n%7 = load s (j)\n%8 = add %6 %7\n", 8),
    "gain_shift_residual": (
        "%5 = load g (j)\n%6 = mul %4 %5\n%7 = load s (j)\n%8 = add %7 %6\n"
        "%9 = load r (i, j)\n%10 = add %8 %9\n", 10,
    ),
    "residual_gain_shift_relu": (
        "%5 = load r (i, j)\n%6 = add %4 %5\n%7 = load g (j)\n%8 = mul %6 %7\n%9 = load s (j)\n"
        "%10 = add %8 %9\n%11 = const f32 0\n%12 = max %10 %11\n", 12,
    ),
    "gain_residual_silu": (
        "%5 = load g (j)\n%6 = mul %4 %5\n%7 = sigmoid %6\n%8 = mul %6 %7\n%9 = load r (i, j)\n"
        "%10 = add %8 %9\n", 10,
    ),
    # What one pass cannot do: two gains, a gain that is no row of columns.
    "two_gains": ("%5 = load g (j)\n%6 = mul %4 %5\n%7 = load s (j)\n%8 = mul %6 %7\n", 8),
    "gain_of_all": ("%5 = load r (i, j)\n%6 = mul %4 %5\n%7 = load s (j)\n%8 = add %6 %7\n", 8),
}  # fmt: skip


@pytest.mark.parametrize("kind", GAINS)
def test_gains_equal_the_interpreter(kind):
    lines, last = GAINS[kind]
    for m, k, n in ((7, 20, 37), (1, 33, 50), (2, 9, 100), (60, 800, 24), (17, 40, 96)):
        text = product(m, k, n, "none", "", False)
        text = text.replace(
            "input b",
            f"input g f32[{n}] row\ninput s f32[{n}] row\ninput r f32[{m}, {n}] row\ninput b",
        )
        text = text.replace("store y (i, j) %4", f"{lines}store y (i, j) %{last}")
        shapes = ((m, k), (k, n), (n,), (n,), (m, n), (n,))
        inputs = [RNG.uniform(-1, 1, s).astype(np.float32) for s in shapes]
        inputs[1] *= 6 / k**0.5
        (want,) = interpret(parse_program(text), inputs)
        for isa in native_lib.isas():
            for threads, constant in ((1, (1, 2, 3, 5)), (2, ())):
                (got,) = native_lib.server(isa).run(text, inputs, threads, constant)
                np.testing.assert_allclose(
                    got, want, rtol=2e-6, atol=1e-6 * k**0.5, err_msg=f"{isa} {m}"
                )


@pytest.mark.parametrize("n", [3, 8, 12, 20, 23, 24, 40, 56, 72])
def test_narrow_and_ragged_columns_equal_the_interpreter(n):
    """Half vectors at the end of a panel, tiles of every number of rows, and their repetition."""
    for m, k in ((3, 1), (11, 16), (12, 40), (29, 7), (61, 24), (26, 700)):
        for residual in ("", "early"):
            text = product(m, k, n, "hard_swish", residual, False)
            shapes = ((m, k), (k, n), (n,), (m, n))
            inputs = [RNG.uniform(-1, 1, s).astype(np.float32) for s in shapes]
            inputs[1] *= 6 / k**0.5
            inputs = inputs if residual else inputs[:3]
            (want,) = interpret(parse_program(text), inputs)
            for isa in native_lib.isas():
                for constant in ((1, 2), ()):
                    (got,) = native_lib.server(isa).run(text, inputs, 1, constant)
                    np.testing.assert_allclose(
                        got, want, rtol=2e-6, atol=1e-6 * k**0.5, err_msg=f"{isa} {m} {k}"
                    )
