"""Programs for every CUDA schedule, in every type it may have and at ragged sizes."""

from __future__ import annotations

import dataclasses

import numpy as np
from cuda_emulator import Device

from onnx_fusion.program.model import from_bf16, to_bf16

FLOATS = ("f32", "f16", "bf16")
TOLERANCE = {"f32": 4e-6, "f16": 1.5e-3, "bf16": 1.2e-2}
"""Of a result's range: a few roundings, the last of them to the type."""


@dataclasses.dataclass(frozen=True)
class Program:
    """A text, its inputs, and the schedules that it must get."""

    name: str
    text: str
    inputs: tuple[np.ndarray, ...]
    schedules: tuple[str, ...]
    tolerance: float
    device: Device = Device()


def random(dtype: str, *shape: int, seed: int = 0) -> np.ndarray:
    """Return values of a type: floats in [-1, 1), integers small, bf16 as its bits."""
    rng = np.random.default_rng([seed, *shape])
    values = rng.uniform(-1, 1, shape).astype(np.float32)
    if dtype == "bf16":
        return to_bf16(values)
    if dtype in ("f32", "f16", "f64"):
        return values.astype({"f32": np.float32, "f16": np.float16, "f64": np.float64}[dtype])
    kind = {"i": "int", "u": "uint"}[dtype[0]] + dtype[1:]
    return rng.integers(0 if dtype[0] == "u" else -9, 9, shape).astype(kind)


def widen(array: np.ndarray, dtype: str) -> np.ndarray:
    return from_bf16(array) if dtype == "bf16" else array.astype(np.float64)


class Writer:
    """Writes a stage that computes in f32 (i32, i64) whatever the types of its tensors."""

    def __init__(self, dtype: str) -> None:
        self.dtype = dtype
        self.lines: list[str] = []
        self.count = 0

    def value(self, text: str) -> str:
        self.lines.append(f"%{self.count} = {text}")
        self.count += 1
        return f"%{self.count - 1}"

    def compute_type(self) -> str:
        return self.dtype if self.dtype in ("f32", "f64", "i32", "i64") else (
            "f32" if self.dtype in FLOATS else "i32"
        )  # fmt: skip

    def load(self, text: str) -> str:
        raw = self.value(f"load {text}")
        wide = self.compute_type()
        return raw if wide == self.dtype else self.value(f"cast {wide} {raw}")

    def store(self, text: str, value: str) -> None:
        if self.compute_type() != self.dtype:
            value = self.value(f"cast {self.dtype} {value}")
        self.lines.append(f"store {text} {value}")


def program(*parts: str | list[str]) -> str:
    lines = ["tile_program 1"]
    for part in parts:
        lines += [part] if isinstance(part, str) else part
    return "\n".join(lines) + "\n"


def points() -> list[Program]:
    found = []
    for dtype in (*FLOATS, "f64", "i8", "u8", "i16", "u16", "i32", "u32", "i64", "u64"):
        if dtype in ("u32", "u64"):
            continue  # no arithmetic: only moved, which slices shows
        for rows, columns in ((1, 1), (3, 8), (5, 24), (2, 33), (7, 130)):
            w = Writer(dtype)
            a = w.load("x (i, j)")
            b = w.load("b (j)")
            c = w.load("c (i)")
            out = w.value(f"mul {w.value(f'add {a} {b}')} {c}")
            w.store("y (i, j)", out)
            text = program(
                f"input x {dtype}[M, N] row", f"input b {dtype}[N] row", f"input c {dtype}[M] row",
                f"output y {dtype}[M, N] row", "stage i: M, j: N", w.lines,
            )  # fmt: skip
            inputs = (
                random(dtype, rows, columns), random(dtype, columns), random(dtype, rows, seed=1)
            )  # fmt: skip
            found.append(Program(f"points_{dtype}_{rows}x{columns}", text, inputs, ("points",),
                                 TOLERANCE.get(dtype, 0 if dtype != "f64" else 1e-15)))  # fmt: skip
    for dtype in ("f32", "f16", "u8", "u32", "u64"):
        for columns in (8, 20, 33):
            text = program(
                f"input x {dtype}[M, N] row", f"input z {dtype}[M, 4] row",
                f"output y {dtype}[M, N + 1] row", "stage i: M, j: N + 1",
                "%0 = load x (i, j - 1) else 0", "%1 = load z (i, j) else 0",
                "%2 = select (j < 1) %1 %0", "store y (i, j) %2",
            )  # fmt: skip
            inputs = (random(dtype, 5, columns), random(dtype, 5, 4))
            found.append(Program(f"slices_{dtype}_{columns}", text, inputs, ("points",), 0.0))
    return found


def transposes() -> list[Program]:
    found = []
    for dtype in (*FLOATS, "i8", "i64"):
        for batch, rows, columns in ((1, 5, 3), (2, 33, 65), (3, 64, 40)):
            w = Writer(dtype)
            a = w.load("x (b, i, j)")
            c = w.load("z (b, j, i)")
            w.store("y (b, j, i)", w.value(f"add {a} {c}"))
            text = program(
                f"input x {dtype}[B, M, N] row", f"input z {dtype}[B, N, M] row",
                f"output y {dtype}[B, N, M] row", "stage b: B, i: M, j: N", w.lines,
            )  # fmt: skip
            inputs = (random(dtype, batch, rows, columns), random(dtype, batch, columns, rows))
            found.append(Program(
                f"transpose_{dtype}_{batch}x{rows}x{columns}", text, inputs,
                ("transpose",) if min(rows, columns) >= 16 else ("points",),
                TOLERANCE.get(dtype, 0),
            ))  # fmt: skip
    return found


def softmax(w: Writer, over: str, load: str, store: str) -> list[str]:
    a = w.load(load)
    top = w.value(f"reduce_max {a} over {over}")
    e = w.value(f"exp {w.value(f'sub {a} {top}')}")
    total = w.value(f"reduce_sum {e} over {over}")
    w.store(store, w.value(f"div {e} {total}"))
    return w.lines


def rows() -> list[Program]:
    found = []
    for dtype in FLOATS:
        for length, schedule in (
            (5, "serial"), (33, "warp_rows"), (72, "warp_rows"), (1000, "warp_rows"),
            (1032, "block_rows"), (4099, "block_rows"), (8200, "block_rows"),
        ):  # fmt: skip
            text = program(
                f"input x {dtype}[M, N] row", f"output y {dtype}[M, N] row", "stage i: M, j: N",
                softmax(Writer(dtype), "j", "x (i, j)", "y (i, j)"),
            )  # fmt: skip
            found.append(Program(f"softmax_{dtype}_{length}", text, (random(dtype, 3, length),),
                                 (schedule,), TOLERANCE[dtype]))  # fmt: skip
        for length, columns in ((40, 33), (129, 8), (500, 70)):
            text = program(
                f"input x {dtype}[M, N] row", f"output y {dtype}[M, N] row", "stage i: M, j: N",
                softmax(Writer(dtype), "i", "x (i, j)", "y (i, j)"),
            )  # fmt: skip
            found.append(Program(
                f"softmax_columns_{dtype}_{length}x{columns}", text,
                (random(dtype, length, columns),), ("columns",), TOLERANCE[dtype],
            ))  # fmt: skip
    for dtype in ("i32", "i64", "f64"):
        for op in ("sum", "max", "min"):
            for length in (7, 100, 2000):
                text = program(
                    f"input x {dtype}[M, N] row", f"output y {dtype}[M] row", "stage i: M, j: N",
                    "%0 = load x (i, j)", f"%1 = reduce_{op} %0 over j", "store y (i) %1",
                )  # fmt: skip
                found.append(Program(f"reduce_{op}_{dtype}_{length}", text,
                                     (random(dtype, 4, length),),
                                     ("serial" if length < 16 else
                                      "warp_rows" if length < 1025 else "block_rows",),
                                     1e-12 if dtype == "f64" else 0.0))  # fmt: skip
    return found


def normed(w: Writer, over: str, length: str, load: str, store: str) -> list[str]:
    """Two sums, one of them of the other's differences, a result of the row and one of each
    element, and a factor for each row."""
    a = w.load(load)
    count = w.value(f"const f32 {length}")
    mean = w.value(f"div {w.value(f'reduce_sum {a} over {over}')} {count}")
    d = w.value(f"sub {a} {mean}")
    total = w.value(f"reduce_sum {w.value(f'mul {d} {d}')} over {over}")
    root = w.value(f"sqrt {w.value(f'div {total} {count}')}")
    w.store("z (c)", mean)
    w.store(store, w.value(f"mul {w.value(f'div {d} {root}')} {w.load('f (c)')}"))
    return w.lines


def split_rows() -> list[Program]:
    """Few long rows: along memory, across it, and both, at ragged lengths."""
    found = []
    device = Device(processors=6)
    for dtype in ("f32", "f16", "bf16", "f64", "i32", "i64"):
        for op in ("sum",) if dtype in FLOATS[1:] else ("sum", "max", "min", "prod"):
            for rows, length in ((3, 66001), (1, 140000), (2, 131072))[: 3 if op == "sum" else 1]:
                w = Writer(dtype)
                total = w.value(f"reduce_{op} {w.load('x (i, j)')} over j")
                w.store("y (i)", w.value(f"mul {total} {w.load('b (i)')}"))
                text = program(
                    f"input x {dtype}[M, N] row", f"input b {dtype}[M] row",
                    f"output y {dtype}[M] row", "stage i: M, j: N", w.lines,
                )  # fmt: skip
                x = random(dtype, rows, length)
                if op == "prod":  # neither nothing nor infinite
                    x = 2 * x + 1 if dtype[0] == "i" else 1 + x / 64
                found.append(Program(
                    f"split_{op}_{dtype}_{rows}x{length}", text, (x, random(dtype, rows)),
                    ("block_rows_split", "split_rows"),
                    {"f32": 1e-4 if op == "prod" else 4e-6, "f64": 1e-12}.get(
                        dtype, TOLERANCE.get(dtype, 0.0)), device,
                ))  # fmt: skip
    for dtype in FLOATS:
        for channels, length in ((33, 900), (64, 2049)):
            text = program(
                f"input x {dtype}[N, C] row", f"input f {dtype}[C] row",
                f"output y {dtype}[N, C] row", f"output z {dtype}[C] row", "stage c: C, i: N",
                normed(Writer(dtype), "i", str(length), "x (i, c)", "y (i, c)"),
            )  # fmt: skip
            found.append(Program(
                f"split_normed_columns_{dtype}_{length}x{channels}", text,
                (random(dtype, length, channels), random(dtype, channels)),
                ("columns_split",) * 3, 2 * TOLERANCE[dtype], device,
            ))  # fmt: skip
        for images, channels, size in ((2, 3, 400), (5, 2, 161)):
            text = program(
                f"input x {dtype}[B, C, N] row", f"input f {dtype}[C] row",
                f"output y {dtype}[B, C, N] row", f"output z {dtype}[C] row",
                "stage c: C, b: B, i: N",
                normed(Writer(dtype), "b, i", str(images * size**2), "x (b, c, i)", "y (b, c, i)"),
            )  # fmt: skip
            found.append(Program(
                f"split_normed_{dtype}_{images}x{channels}x{size**2}", text,
                (random(dtype, images, channels, size**2), random(dtype, channels)),
                ("block_rows_split",) * 3, 2 * TOLERANCE[dtype], device,
            ))  # fmt: skip
        text = program(
            f"input x {dtype}[M, N] row", f"output y {dtype}[M, N] row", "stage i: M, j: N",
            softmax(Writer(dtype), "j", "x (i, j)", "y (i, j)"),
        )  # fmt: skip
        found.append(Program(f"split_softmax_{dtype}", text, (random(dtype, 2, 140000),),
                             ("block_rows_split",) * 3, TOLERANCE[dtype], device))  # fmt: skip
        w = Writer(dtype)
        w.store("y (j)", w.value(f"dot {w.load('x (k)')} {w.load('w (k, j)')} over k"))
        text = program(
            f"input x {dtype}[K] row", f"input w {dtype}[K, N] row", f"output y {dtype}[N] row",
            "stage j: N, k: K", w.lines,
        )  # fmt: skip
        inputs = (random(dtype, 3000), random(dtype, 3000, 40))
        found.append(Program(f"split_dot_{dtype}", text, inputs, ("columns_split", "split_rows"),
                             TOLERANCE[dtype], device))  # fmt: skip
    return found


def windows() -> list[Program]:
    found = []
    for dtype in FLOATS:
        # With one processor there are threads enough, so that each takes a run of channels.
        for channels, size, device in (
            (8, 9, Device()), (5, 6, Device()), (16, 9, Device(processors=1)),
        ):  # fmt: skip
            w = Writer(dtype)
            a = w.value("load x (n, c, 2 * p + r - 1, 2 * q + s - 1) else -inf")
            if dtype != "f32":
                a = w.value(f"cast f32 {a}")
            w.store("y (n, c, p, q)", w.value(f"reduce_max {a} over r, s"))
            text = program(
                f"input x {dtype}[N, C, H, W] order(0, 2, 3, 1)",
                f"output y {dtype}[N, C, (H - 1) // 2 + 1, (W - 1) // 2 + 1] order(0, 2, 3, 1)",
                "stage n: N, c: C, p: (H - 1) // 2 + 1, q: (W - 1) // 2 + 1, r: 3, s: 3", w.lines,
            )  # fmt: skip
            found.append(Program(f"max_pool_{dtype}_{channels}x{size}", text,
                                 (random(dtype, 2, size, size, channels),), ("serial",), 0.0,
                                 device))  # fmt: skip
            w = Writer(dtype)
            a = w.value("load x (n, c, p + r - 1, q + s - 1) else 0")
            if dtype != "f32":
                a = w.value(f"cast f32 {a}")
            b = w.load("f (c, r, s)")
            w.store("y (n, c, p, q)", w.value(f"dot {a} {b} over r, s"))
            text = program(
                f"input x {dtype}[N, C, H, W] order(0, 2, 3, 1)", f"input f {dtype}[C, 3, 3] row",
                f"output y {dtype}[N, C, H, W] order(0, 2, 3, 1)",
                "stage n: N, c: C, p: H, q: W, r: 3, s: 3", w.lines,
            )  # fmt: skip
            found.append(Program(
                f"depthwise_{dtype}_{channels}x{size}", text,
                (random(dtype, 2, size, size, channels), random(dtype, channels, 3, 3)),
                ("serial",), TOLERANCE[dtype], device,
            ))  # fmt: skip
    return found


UNITS = {"f32": "product", "f16": "product_f16", "bf16": "product_bf16"}


def unit(dtype: str, *fastest: int) -> str:
    """Return the schedule of a product whose operands' last dims are these."""
    name = UNITS.get(dtype, "product_tf32")
    copied = dtype in ("f16", "bf16") and all(n % 8 == 0 for n in fastest)
    return f"{name}_copied" if copied else name


def products() -> list[Program]:
    found = []
    for dtype in (*FLOATS, "tf32"):
        real = "f32" if dtype == "tf32" else dtype
        device = Device(tf32=dtype == "tf32", processors=4)
        for m, k, n in ((9, 17, 11), (64, 32, 64), (70, 72, 96), (130, 40, 264), (300, 33, 136)):
            for layout in ("nn", "nt", "tn"):
                w = Writer(real)
                x = w.load("x (b, k, i)" if layout[0] == "t" else "x (b, i, k)")
                y = w.load("w (j, k)" if layout[1] == "t" else "w (k, j)")
                dot = w.value(f"dot {x} {y} over k")
                out = w.value(f"add {dot} {w.load('c (j)')}")
                w.store("y (b, i, j)", w.value(f"mul {w.value(f'sigmoid {out}')} {out}"))
                text = program(
                    f"input x {real}[B, {'K, M' if layout[0] == 't' else 'M, K'}] row",
                    f"input w {real}[{'N, K' if layout[1] == 't' else 'K, N'}] row",
                    f"input c {real}[N] row", f"output y {real}[B, M, N] row",
                    "stage b: B, i: M, j: N, k: K", w.lines,
                )  # fmt: skip
                inputs = (
                    random(real, 2, *((k, m) if layout[0] == "t" else (m, k))),
                    random(real, *((n, k) if layout[1] == "t" else (k, n))), random(real, n),
                )  # fmt: skip
                found.append(Program(
                    f"product_{dtype}_{layout}_{m}x{k}x{n}", text, inputs,
                    (unit(dtype, inputs[0].shape[-1], inputs[1].shape[-1]),),
                    1.5e-3 if dtype == "tf32" else TOLERANCE[dtype],
                    dataclasses.replace(device, shared_bytes=(164 if layout == "nn" else 99) << 10),
                ))  # fmt: skip
        for m, k, n in ((33, 1000, 40), (9, 2051, 13), (130, 520, 72)):
            w = Writer(real)
            dot = w.value(f"dot {w.load('x (i, k)')} {w.load('w (k, j)')} over k")
            w.store("y (i, j)", w.value(f"add {dot} {w.load('c (j)')}"))
            text = program(
                f"input x {real}[M, K] row", f"input w {real}[K, N] row", f"input c {real}[N] row",
                f"output y {real}[M, N] row", "stage i: M, j: N, k: K", w.lines,
            )  # fmt: skip
            found.append(Program(
                f"product_split_{dtype}_{m}x{k}x{n}", text,
                (random(real, m, k), random(real, k, n), random(real, n)),
                (unit(dtype, k, n) + "_split", "split_sum"),
                1.5e-3 if dtype == "tf32" else TOLERANCE[dtype], Device(tf32=dtype == "tf32"),
            ))  # fmt: skip
        for channels, outputs, size in ((8, 16, 10), (5, 9, 7)):
            w = Writer(real)
            a = w.value("load x (n, c, p + r - 1, q + s - 1) else 0")
            if w.compute_type() != real:
                a = w.value(f"cast f32 {a}")
            b = w.load("f (o, c, r, s)")
            dot = w.value(f"dot {a} {b} over c, r, s")
            w.store("y (n, o, p, q)", w.value(f"max {dot} {w.value('const f32 0')}"))
            text = program(
                f"input x {real}[N, C, H, W] order(0, 2, 3, 1)",
                f"input f {real}[O, C, 3, 3] order(0, 2, 3, 1)",
                f"output y {real}[N, O, H, W] order(0, 2, 3, 1)",
                "stage n: N, o: O, p: H, q: W, c: C, r: 3, s: 3", w.lines,
            )  # fmt: skip
            found.append(Program(
                f"convolution_{dtype}_{channels}x{outputs}x{size}", text,
                (random(real, 2, size, size, channels), random(real, outputs, 3, 3, channels)),
                (UNITS.get(dtype, "product_tf32"),),
                1.5e-3 if dtype == "tf32" else TOLERANCE[dtype], device,
            ))  # fmt: skip
    return found


def attention() -> list[Program]:
    """Of (batch, heads, rows, columns, depth), with a mask, and heads that share their columns."""
    found = []
    for name in (*FLOATS, "tf32"):
        dtype = "f32" if name == "tf32" else name
        for b, h, g, m, n, d in (
            (2, 3, 1, 9, 9, 16), (1, 2, 1, 70, 130, 64), (1, 2, 2, 33, 65, 40),
            (2, 1, 1, 64, 64, 128), (1, 1, 3, 17, 200, 33),
        ):  # fmt: skip
            temps = "f32" if (m + n) % 2 else dtype
            heads = f"{g * d} * h + {d} * g + d"
            w = Writer(dtype)
            q = w.load(f"q (b, i, {heads})")
            k = w.load(f"k (b, j, {d} * h + d)")
            scaled = w.value(f"mul {w.value(f'dot {q} {k} over d')} {w.value('const f32 0.4')}")
            mask = w.value("load z (b, j)")
            scaled = w.value(f"add {scaled} {mask}")
            if temps != "f32":
                scaled = w.value(f"cast {temps} {scaled}")
            first = [*w.lines, f"store t0 (b, h, g, i, j) {scaled}"]
            w = Writer(dtype)
            a = w.value("load t0 (b, h, g, i, j)")
            if temps != "f32":
                a = w.value(f"cast f32 {a}")
            top = w.value(f"reduce_max {a} over j")
            e = w.value(f"exp {w.value(f'sub {a} {top}')}")
            w.store("t1 (b, h, g, i, j)", w.value(f"div {e} {w.value(f'reduce_sum {e} over j')}"))
            second = w.lines
            w = Writer(dtype)
            p = w.load("t1 (b, h, g, i, j)")
            v = w.load("v (b, h, j, d)")
            w.store(f"y (b, i, {heads})", w.value(f"dot {p} {v} over j"))
            text = program(
                f"input q {dtype}[B, M, {h * g * d}] row", f"input k {dtype}[B, N, {h * d}] row",
                f"input v {dtype}[B, {h}, N, {d}] row", "input z f32[B, N] row",
                f"temp t0 {temps}[B, {h}, {g}, M, N] row",
                f"temp t1 {dtype}[B, {h}, {g}, M, N] row",
                f"output y {dtype}[B, M, {h * g * d}] row",
                f"stage b: B, h: {h}, g: {g}, i: M, j: N, d: {d}", first,
                f"stage b: B, h: {h}, g: {g}, i: M, j: N", second,
                f"stage b: B, i: M, h: {h}, g: {g}, d: {d}, j: N", w.lines,
            )  # fmt: skip
            mask_of = random("f32", b, n)
            mask_of[0, : n // 2] = -np.inf  # columns that do not count, a tile of them first
            found.append(Program(
                f"attention_{name}_{b}x{h}x{g}x{m}x{n}x{d}", text,
                (random(dtype, b, m, h * g * d), random(dtype, b, n, h * d),
                 random(dtype, b, h, n, d), mask_of),
                (f"attention_{name}",), 3e-3 if name == "tf32" else 2 * TOLERANCE[dtype],
                Device(tf32=name == "tf32", processors=108 if m < 64 else 1),
            ))  # fmt: skip
    return found


PROGRAMS = [*points(), *transposes(), *rows(), *split_rows(), *windows(), *products(), *attention()]

BY_SCHEDULE = {schedule: p for p in reversed(PROGRAMS) for schedule in p.schedules}
"""The first program of each schedule."""
