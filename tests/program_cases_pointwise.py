"""Cases of the pointwise form: how elements move, every instruction on its edge values."""

from __future__ import annotations

import numpy as np
from program_case_kit import Case, Cases, Maker, boolean, f32, f64, given, ints, special
from program_cases_movement import movement


def words(text: str) -> list[str]:
    return text.split()


UNARY = words(
    "neg abs sign sqrt exp log sin cos tan asin acos atan sinh cosh tanh asinh acosh atanh erf "
    "sigmoid floor ceil round"
)
BINARY = words("add sub mul div mod fmod pow min max")


def every_instruction(cases: Cases) -> None:
    for op in UNARY:
        for kind, maker in (("special", special()), ("plain", f32(1025, low=-4, high=4))):
            cases.add(f"{op}_f32_{kind}", f"""
                input x f32[N] row
                output y f32[N] row
                stage i: N
                %0 = load x (i)
                %1 = {op} %0
                store y (i) %1
                """, maker)
        cases.add(f"{op}_f64", f"""
            input x f64[N] row
            output y f64[N] row
            stage i: N
            %0 = load x (i)
            %1 = {op} %0
            store y (i) %1
            """, f64(37))
    for op in BINARY:
        for kind, makers in (
            ("special", (special(), special(7))),
            ("plain", (f32(517, low=-4, high=4), f32(517, low=-4, high=4))),
        ):
            cases.add(f"{op}_f32_{kind}", f"""
                input a f32[N] row
                input b f32[N] row
                output y f32[N] row
                stage i: N
                %0 = load a (i)
                %1 = load b (i)
                %2 = {op} %0 %1
                store y (i) %2
                """, *makers)
    for op in words("is_nan is_inf"):
        cases.add(f"{op}_f32", f"""
            input x f32[N] row
            output y bool[N] row
            stage i: N
            %0 = load x (i)
            %1 = {op} %0
            %2 = not %1
            store y (i) %2
            """, special())
    for op in words("eq lt le"):
        cases.add(f"{op}_f32", f"""
            input a f32[N] row
            input b f32[N] row
            output y bool[N] row
            output z f32[N] row
            stage i: N
            %0 = load a (i)
            %1 = load b (i)
            %2 = {op} %0 %1
            %3 = where %2 %0 %1
            store y (i) %2
            store z (i) %3
            """, special(), special(1))
    for dtype in ("int32", "int64"):
        short = dtype[0] + dtype[3:]
        edge = [0, 1, -1, 2, -2, 7, -7, np.iinfo(dtype).min, np.iinfo(dtype).max]
        left, right = np.meshgrid(edge, edge)
        makers = (given(left.ravel(), dtype), given(right.ravel(), dtype))
        for op in words("add sub mul div mod fmod min max and or xor"):
            cases.add(f"{op}_{short}", f"""
                input a {short}[N] row
                input b {short}[N] row
                output y {short}[N] row
                stage i: N
                %0 = load a (i)
                %1 = load b (i)
                %2 = {op} %0 %1
                store y (i) %2
                """, *makers)
        for op in words("neg abs sign not"):
            cases.add(f"{op}_{short}", f"""
                input a {short}[N] row
                output y {short}[N] row
                stage i: N
                %0 = load a (i)
                %1 = {op} %0
                store y (i) %1
                """, given(edge, dtype))
        for op in words("eq lt le"):
            cases.add(f"{op}_{short}", f"""
                input a {short}[N] row
                input b {short}[N] row
                output y bool[N] row
                stage i: N
                %0 = load a (i)
                %1 = load b (i)
                %2 = {op} %0 %1
                store y (i) %2
                """, *makers)
    for op in words("and or xor eq"):
        cases.add(f"{op}_bool", f"""
            input a bool[N] row
            input b bool[N] row
            output y bool[N] row
            stage i: N
            %0 = load a (i)
            %1 = load b (i)
            %2 = {op} %0 %1
            store y (i) %2
            """, boolean(67), boolean(67))
    types = words("f32 f64 f16 bf16 i8 u8 i16 u16 i32 u32 i64 u64 bool")
    for target in types:
        values = [0.0, 1.0, 0.5, 2.75, 100.25, 126.0] * 3
        if target[0] in "fib":
            values += [-1.0, -2.75, -100.0, -0.0]
        cases.add(f"cast_f32_{target}", f"""
            input x f32[N] row
            output y {target}[N] row
            stage i: N
            %0 = load x (i)
            %1 = cast {target} %0
            store y (i) %1
            """, given(values, "float32"))
    for source in types[1:]:
        numpy = {"f": "float", "i": "int", "u": "uint"}.get(source[0], "") + source[1:]
        maker = {"bool": boolean(19), "bf16": given(np.arange(16000, 16400, 13), "uint16")}.get(
            source, ints(numpy, 0, 100, 19)
        )
        cases.add(f"cast_{source}_f32", f"""
            input x {source}[N] row
            output y f32[N] row
            output z {source}[N] row
            output w i64[N] row
            stage i: N
            %0 = load x (i)
            %1 = cast f32 %0
            %2 = cast i64 %0
            store y (i) %1
            store z (i) %0
            store w (i) %2
            """, maker)
    ties = np.array([1 + 2**-11, 1 + 3 * 2**-11, 65519.9, 65520, 1e-8, 6e-8, np.inf, np.nan, 1e-39])
    for target in ("f16", "bf16"):
        cases.add(f"round_{target}", f"""
            input x f32[N] row
            output y {target}[N] row
            stage i: N
            %0 = load x (i)
            %1 = cast {target} %0
            store y (i) %1
            """, given([*ties, *-ties, 1 + 2**-8, 1 + 3 * 2**-8, 3.39e38, 3.4e38], "float32"))
    cases.add("index_arithmetic", """
        input x f32[N, M] row
        output y i64[N, M] row
        stage i: N, j: M
        %0 = load x (i, j)
        %1 = cast i64 %0
        %2 = index i * M + j - min(i, 3) + (i - 5) // 3 + (i - 5) % 3
        %3 = add %1 %2
        store y (i, j) %3
        """, f32(9, 17))
    cases.add("where_other_types", """
        input c bool[N] row
        input a u8[N] row
        input b u8[N] row
        output y u8[N] row
        stage i: N
        %0 = load c (i)
        %1 = load a (i)
        %2 = load b (i)
        %3 = where %0 %1 %2
        store y (i) %3
        """, boolean(77), ints("uint8", 0, 256, 77), ints("uint8", 0, 256, 77))


def pixels(*shape: int) -> Maker:
    """Return a maker of elements of which some are infinite or no numbers."""

    def make(rng: np.random.Generator) -> np.ndarray:
        x = rng.uniform(-2, 2, shape).astype(np.float32)
        x.flat[::37], x.flat[5::91], x.flat[9::83] = np.nan, np.inf, -np.inf
        return x

    return make


# Lines from the scaled element %3 on, and the number of the last one; %1 is a bias.
ENDS = {
    "gain": ("", 3),
    "shift": ("%4 = const f32 0.5\n%5 = add %3 %4\n", 5),
    "bias": ("%4 = add %1 %3\n", 4),
    "relu": ("%4 = add %3 %1\n%5 = const f32 0\n%6 = max %4 %5\n", 6),
    "clip": (
        "%4 = add %3 %1\n%5 = const f32 -0.25\n%6 = max %4 %5\n%7 = const f32 0.75\n"
        "%8 = min %7 %6\n", 8,
    ),
    "residual": ("%4 = add %3 %1\n%5 = add %4 %2\n", 5),
    "silu": ("%4 = add %3 %1\n%5 = sigmoid %4\n%6 = mul %4 %5\n", 6),
}  # fmt: skip


def normalized_channels(cases: Cases) -> None:
    """What a normalization does to each channel, into pieces of a Concat: channels around vectors
    and blocks of them, pixels around what goes through at once, side by side or apart."""
    shapes = [(c, h, w) for c in (15, 16, 17, 31, 32, 33, 71) for h, w in ((1, 7), (3, 11))]
    shapes += [(48, 61, 37), (24, 1, 1)]
    for name, (lines, last) in ENDS.items():
        for c, h, w in shapes if name == "relu" else [(33, 5, 7)]:
            cases.add(f"channels_{name}_{c}_{h}x{w}", f"""
                input x f32[1, {c}, {h}, {w}] order(0, 2, 3, 1)
                input z f32[1, {c + 5}, {h}, {2 * w}] order(0, 2, 3, 1)
                input s f32[{2 * c}] row
                input b f32[{2 * c}] row
                output y f32[1, {2 * c}, {h}, {w}] order(0, 2, 3, 1)
                stage c: {c}, p: {h}, q: {w}
                %0 = load s (c)
                %1 = load b (c)
                %2 = load x (0, c, p, q)
                %3 = mul %2 %0
                {lines}store y (0, c, p, q) %{last}
                stage c: {c}, p: {h}, q: {w}
                %0 = load s (c + {c})
                %1 = load b (c + {c})
                %2 = load z (0, c + 3, p, 2 * q + 1)
                %3 = mul %0 %2
                {lines}store y (0, c + {c}, p, q) %{last}
                """, pixels(1, h, w, c), pixels(1, h, 2 * w, c + 5), f32(2 * c), f32(2 * c))


def pointwise() -> list[Case]:
    """Return the cases without reduction and dot."""
    cases = Cases()
    movement(cases)
    every_instruction(cases)
    normalized_channels(cases)
    return cases
