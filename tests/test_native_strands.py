"""Element-wise operators that follow one another in registers, against the interpreter."""

from __future__ import annotations

import native_lib
import numpy as np
import pytest

from onnx_fusion.program import parse_program
from onnx_fusion.program.interpret import interpret

UNARY = ("neg", "abs", "tanh", "sigmoid", "erf")
BINARY = ("add", "sub", "min", "max", "mul", "div")


def random_text(rng: np.random.Generator, steps: int) -> str:
    """Return a program of so many operators over x, y (full), r (of rows) and numbers.

    Values stay within [-4, 4]; some are read again later, some are outputs too.
    """
    lines = ["%0 = load x (i, j)", "%1 = load y (i, j)", "%2 = load r (i)"]
    full, stores, count = [0, 1], [], 0

    def put(line: str) -> int:
        lines.append(f"%{len(lines) - count} = {line}")
        return len(lines) - 1 - count

    def operand() -> int:
        kind = rng.integers(0, 6)
        if kind == 0:
            return put(f"const f32 {rng.choice(['0.5', '-1.25', '2', '0'])}")
        if kind == 1:
            return 2
        return int(full[-1] if kind < 5 else rng.choice(full))

    for _ in range(steps):
        a = full[-1] if rng.random() < 0.8 else int(rng.choice(full))
        op = str(rng.choice(UNARY + BINARY + ("silu", "root", "clip")))
        if op in UNARY:
            last = put(f"{op} %{a}")
        elif op == "silu":
            last = put(f"mul %{a} %{put(f'sigmoid %{a}')}")
        elif op == "root":
            last = put(f"sqrt %{put(f'abs %{a}')}")
        elif op == "clip":
            low, high = put("const f32 -1"), put("const f32 1.5")
            last = put(f"min %{put(f'max %{a} %{low}')} %{high}")
        elif op == "div":
            last = put(f"div %{a} %{put('const f32 3')}")
        else:
            pair = [a, operand()]
            rng.shuffle(pair)
            last = put(f"{op} %{pair[0]} %{pair[1]}")
            if op == "mul":
                low, high = put("const f32 -4"), put("const f32 4")
                last = put(f"min %{put(f'max %{last} %{low}')} %{high}")
        full.append(last)
        if rng.random() < 0.1:
            stores.append(last)
    stores.append(full[-1])
    stores = sorted(set(stores))
    lines += [f"store z{k} (i, j) %{v}" for k, v in enumerate(stores)]
    outputs = "".join(f"output z{k} f32[M, N] row\n" for k in range(len(stores)))
    return (
        "tile_program 1\ninput x f32[M, N] row\ninput y f32[M, N] row\ninput r f32[M] row\n"
        f"{outputs}stage i: M, j: N\n" + "\n".join(lines) + "\n"
    )


@pytest.mark.parametrize("seed", range(24))
def test_random_chains(seed):
    rng = np.random.default_rng(seed)
    text = random_text(rng, int(rng.integers(2, 40)))
    for rows, length in ((1, 1), (1, 131), (3, 7), (2, 300), (1, 4099), (40, 17)):
        inputs = [rng.uniform(-2, 2, s).astype(np.float32) for s in ((rows, length),) * 2]
        inputs.append(rng.uniform(-2, 2, rows).astype(np.float32))
        want = interpret(parse_program(text), inputs)
        for isa in native_lib.isas():
            for got, expected in zip(native_lib.server(isa).run(text, inputs), want, strict=True):
                np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4, err_msg=text)


CHAINS = {
    "max_min": ("%1 = const f32 -1", "%2 = max %0 %1", "%3 = const f32 2", "%4 = min %2 %3",
                "%5 = neg %4", "%6 = abs %5", "%7 = max %6 %0", "%8 = min %0 %7"),
    "both": ("%1 = neg %0", "%2 = sub %1 %0", "%3 = mul %2 %2", "%4 = div %3 %0", "%5 = floor %4",
             "%6 = ceil %0", "%7 = add %5 %6", "%8 = round %7"),
    "scaled": ("%1 = const f32 1e-30", "%2 = div %0 %1", "%3 = const f32 7", "%4 = div %3 %2",
               "%5 = sub %3 %4", "%6 = abs %5", "%7 = sqrt %6", "%8 = mul %7 %7"),
}  # fmt: skip


@pytest.mark.parametrize("name", CHAINS)
@pytest.mark.parametrize("size", [1, 15, 64, 129, 1100])
def test_infinities_nan_and_exact_operators(name, size):
    rng = np.random.default_rng(size)
    x = rng.choice([np.nan, np.inf, -np.inf, 0.0, -0.5, 1.5, 2.5, 3e38, -1e-30, 7.25], size)
    x = x.astype(np.float32)
    text = (
        "tile_program 1\ninput x f32[N] row\noutput y f32[N] row\nstage i: N\n%0 = load x (i)\n"
        + "\n".join(CHAINS[name]) + "\nstore y (i) %8\n"
    )  # fmt: skip
    with np.errstate(all="ignore"):
        (want,) = interpret(parse_program(text), [x])
    for isa in native_lib.isas():
        (got,) = native_lib.server(isa).run(text, [x])
        np.testing.assert_allclose(got, want, rtol=3e-7)


def test_a_long_chain_with_kept_values():
    """More links than one strand holds, each value read again by the second half."""
    count, lines = 60, ["%0 = load x (i)", "%1 = const f32 0.5"]
    for k in range(count):
        lines.append(
            f"%{k + 2} = {'add' if k % 2 else 'sub'} %{k + 1 if k else 0} %{1 if k % 3 else 0}"
        )
    for k in range(count):
        lines.append(f"%{count + 2 + k} = max %{count + 1 + k} %{k + 2}")
    text = (
        "tile_program 1\ninput x f32[N] row\noutput y f32[N] row\nstage i: N\n"
        + "\n".join(lines) + f"\nstore y (i) %{2 * count + 1}\n"
    )  # fmt: skip
    x = np.random.default_rng(0).uniform(-2, 2, 3333).astype(np.float32)
    (want,) = interpret(parse_program(text), [x])
    for isa in native_lib.isas():
        np.testing.assert_array_equal(native_lib.server(isa).run(text, [x])[0], want)
