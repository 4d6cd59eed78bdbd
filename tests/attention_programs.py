"""Programs of attention, put together from lines: scores, softmax and product, each with extras."""

from __future__ import annotations

import dataclasses

import numpy as np


class Body:
    """Lines of a stage; values are numbered as they come."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.count = 0

    def add(self, instruction: str) -> str:
        self.lines.append(f"%{self.count} = {instruction}")
        self.count += 1
        return f"%{self.count - 1}"

    def softmax(self, x: str, over: str = "j") -> str:
        shifted = self.add(f"sub {x} {self.add(f'reduce_max {x} over {over}')}")
        exp = self.add(f"exp {shifted}")
        return self.add(f"div {exp} {self.add(f'reduce_sum {exp} over {over}')}")

    def store(self, place: str, value: str) -> None:
        self.lines.append(f"store {place} {value}")


@dataclasses.dataclass
class Attention:
    """An attention of `b` batches and `h` heads, `i` queries, `j` keys, depth `d`, `e` features.

    `inputs` are name, shape and kind ("normal", or what `draw` knows); each hook is a list of
    instructions in which `x` is the value before, and numbered by the text as they are added.
    """

    b: int
    h: int
    i: int
    j: int
    d: int
    e: int
    keys_last: bool = False
    scale: float | None = 0.125
    extra: tuple[tuple[str, str, str], ...] = ()  # name, "dtype[shape]", kind
    score: tuple[str, ...] = ()
    exponent: tuple[str, ...] = ()
    weight: tuple[str, ...] = ()
    query: tuple[str, ...] = ()
    key: tuple[str, ...] = ()
    weighing: tuple[str, ...] = ()
    result: tuple[str, ...] = ()

    @property
    def sizes(self) -> dict[str, int]:
        return {n: getattr(self, n) for n in "bhijde"}

    def text(self) -> str:
        n = self.sizes
        key = "{b}, {h}, {d}, {j}" if self.keys_last else "{b}, {h}, {j}, {d}"
        lines = [
            "tile_program 1",
            "input q f32[{b}, {h}, {i}, {d}] row".format(**n),
            f"input k f32[{key}] row".format(**n),
            "input v f32[{b}, {h}, {j}, {e}] row".format(**n),
            *(f"input {name} {kind} row".format(**n) for name, kind, _ in self.extra),
            "temp t0 f32[{b}, {h}, {i}, {j}] row".format(**n),
            "temp t1 f32[{b}, {h}, {i}, {j}] row".format(**n),
            f"output y f32[{self.b}, {self.i}, {self.h * self.e}] row",
            "stage b: {b}, h: {h}, i: {i}, j: {j}, d: {d}".format(**n),
        ]
        body = Body()
        q = chain(body, body.add("load q (b, h, i, d)"), self.query)
        k = body.add(f"load k ({'b, h, d, j' if self.keys_last else 'b, h, j, d'})")
        x = body.add(f"dot {q} {chain(body, k, self.key)} over d")
        if self.scale is not None:
            x = body.add(f"mul {x} {body.add(f'const f32 {self.scale}')}")
        body.store("t0 (b, h, i, j)", chain(body, x, self.score))
        lines += [*body.lines, "stage b: {b}, h: {h}, i: {i}, j: {j}".format(**n)]
        body = Body()
        x = chain(body, body.add("load t0 (b, h, i, j)"), self.exponent)
        body.store("t1 (b, h, i, j)", chain(body, body.softmax(x), self.weight))
        lines += [*body.lines, "stage b: {b}, i: {i}, h: {h}, e: {e}, j: {j}".format(**n)]
        body = Body()
        p = chain(body, body.add("load t1 (b, h, i, j)"), self.weighing)
        x = body.add(f"dot {p} {body.add('load v (b, h, j, e)')} over j")
        body.store(f"y (b, i, {self.e} * h + e)", chain(body, x, self.result))
        return "\n".join([*lines, *body.lines]) + "\n"

    def inputs(self, rng: np.random.Generator) -> list[np.ndarray]:
        n = self.sizes
        shape = (self.b, self.h, self.j, self.d)
        arrays = [
            rng.standard_normal((self.b, self.h, self.i, self.d)),
            rng.standard_normal(shape if not self.keys_last else (*shape[:2], self.d, self.j)),
            rng.standard_normal((self.b, self.h, self.j, self.e)),
        ]
        arrays = [a.astype(np.float32) for a in arrays]
        for _, kind, how in self.extra:
            dims = kind.format(**n).partition("[")[2][:-1]
            arrays.append(draw(rng, tuple(int(s) for s in dims.split(", ") if s), how))
        return arrays

    def expected(self, q, k, v, *masks: np.ndarray) -> np.ndarray:
        """Return the result in float64 for programs whose only extras are added masks."""
        k = k if self.keys_last else np.swapaxes(k, 2, 3)
        x = q.astype(np.float64) @ k * (1.0 if self.scale is None else self.scale)
        for mask in masks:
            x = x + mask
        with np.errstate(invalid="ignore"):
            x = np.exp(x - x.max(-1, keepdims=True))
            y = x / x.sum(-1, keepdims=True) @ v
        return np.swapaxes(y, 1, 2).reshape(self.b, self.i, self.h * self.e)


def chain(body: Body, x: str, instructions: tuple[str, ...]) -> str:
    """Add instructions in which `x` is the value before and `@n` the one n instructions before."""
    first = x
    for instruction in instructions:
        words = [first if w == "first" else x if w == "x" else w for w in instruction.split(" ")]
        words = [f"%{body.count - int(w[1:])}" if w.startswith("@") else w for w in words]
        x = body.add(" ".join(words))
    return x


def draw(rng: np.random.Generator, shape: tuple[int, ...], how: str) -> np.ndarray:
    """Return an input: numbers, a mask with some of its elements low, or booleans."""
    some = rng.random(shape) < 0.25
    low = {"low": -3.0e38, "inf": -np.inf, "soft": -9.0}
    if how in low:
        return np.where(some, low[how], 0).astype(np.float32)
    if how == "bool":
        return ~some
    if how == "flags":
        return (~some).astype(np.int64)
    return rng.standard_normal(shape).astype(np.float32)
