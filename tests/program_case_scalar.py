"""A second meaning of programs, one element at a time in plain Python, to test the interpreter by.

It shares with it only the model of a program, and `bind` for the values of dims.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np

from onnx_fusion.dtypes import DType
from onnx_fusion.program import (
    Apply,
    Cast,
    Const,
    Dot,
    Index,
    Load,
    Program,
    Reduce,
    Ref,
    Select,
    Stage,
    Store,
    bind,
)

INF, NAN = math.inf, math.nan


def exp(a: float) -> float:
    try:
        return math.exp(a)
    except OverflowError:
        return INF


def hyperbolic(function: Callable[[float], float], negative: float) -> Callable[[float], float]:
    def call(a: float) -> float:
        try:
            return function(a)
        except OverflowError:
            return INF if a > 0 else negative

    return call


def within(function: Callable[[float], float], edges: dict[float, float]) -> Callable[..., float]:
    """Return the function with NaN where `math` raises, and the values of `edges`."""

    def call(a: float) -> float:
        if a in edges:
            return edges[a]
        try:
            return function(a)
        except ValueError:
            return NAN

    return call


def power(a: float, b: float) -> float:
    try:
        return math.pow(a, b)
    except OverflowError:
        return -INF if a < 0 and b % 2 == 1 else INF
    except ValueError:
        if a == 0:
            odd = b % 2 == 1
            return math.copysign(INF, a) if odd else INF
        return NAN


def divide(a: float, b: float) -> float:
    if isinstance(a, int):
        if b == 0:
            return 0
        quotient = abs(a) // abs(b)
        return quotient if (a < 0) == (b < 0) else -quotient
    if b == 0:
        return NAN if a == 0 or math.isnan(a) else math.copysign(INF, a) * math.copysign(1, b)
    return a / b


def fmod(a: float, b: float) -> float:
    if isinstance(a, int):
        return 0 if b == 0 else a - divide(a, b) * b
    return NAN if math.isinf(a) or b == 0 else math.fmod(a, b)


def mod(a: float, b: float) -> float:
    rest = fmod(a, b)
    return rest + b if rest != 0 and (rest < 0) != (b < 0) else rest


def pick(a: float, b: float, first: bool) -> float:
    return NAN if a != a or b != b else a if first else b


def whole(function: Callable[[float], int]) -> Callable[[float], float]:
    return lambda a: math.copysign(float(function(a)), a) if math.isfinite(a) else a


UNARY = {
    "neg": lambda a: -a,
    "abs": abs,
    "sign": lambda a: a if a != a else type(a)((a > 0) - (a < 0)),
    "sqrt": within(math.sqrt, {}),
    "exp": exp,
    "log": within(math.log, {0.0: -INF}),
    "sin": within(math.sin, {}),
    "cos": within(math.cos, {}),
    "tan": within(math.tan, {}),
    "asin": within(math.asin, {}),
    "acos": within(math.acos, {}),
    "atan": math.atan,
    "sinh": hyperbolic(math.sinh, -INF),
    "cosh": hyperbolic(math.cosh, INF),
    "tanh": math.tanh,
    "asinh": math.asinh,
    "acosh": within(math.acosh, {}),
    "atanh": within(math.atanh, {1.0: INF, -1.0: -INF}),
    "erf": math.erf,
    "sigmoid": lambda a: 1 / (1 + exp(-a)),
    "floor": whole(math.floor),
    "ceil": whole(math.ceil),
    "round": whole(round),
    "is_nan": lambda a: a != a,
    "is_inf": lambda a: a in (INF, -INF),
    "not": lambda a: not a if isinstance(a, bool) else ~a,
}
BINARY = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "div": divide,
    "mod": mod,
    "fmod": fmod,
    "pow": power,
    "min": lambda a, b: pick(a, b, a <= b),
    "max": lambda a, b: pick(a, b, a >= b),
    "and": lambda a, b: a & b,
    "or": lambda a, b: a | b,
    "xor": lambda a, b: a ^ b,
    "eq": lambda a, b: a == b,
    "lt": lambda a, b: a < b,
    "le": lambda a, b: a <= b,
}
BITS = {DType.I32: 32, DType.I64: 64}


def fit(value: object, dtype: DType) -> object:
    """Return a Python number as the type holds it: floats rounded, integers wrapped."""
    if dtype in BITS:
        half = 1 << (BITS[dtype] - 1)
        return (int(value) + half) % (2 * half) - half
    if dtype is DType.BOOL:
        return bool(value)
    if dtype is DType.BF16:
        return value
    return dtype.numpy.type(value).item()


def from_bits(bits: int) -> float:
    return np.array([bits << 16], np.uint32).view(np.float32)[0].item()


def to_bits(value: float) -> int:
    """Return the bf16 of a float32 as bits: the nearer neighbour, the even one of a tie."""
    low = int(np.array([value], np.float32).view(np.uint32)[0]) >> 16
    if value != value or math.isinf(value) or from_bits(low) == value:
        return low | (0x40 if value != value else 0)
    high = low + 1
    above = math.ldexp(1, 128) if from_bits(high & 0x7FFF) == INF else abs(from_bits(high))
    left, right = abs(value) - abs(from_bits(low)), above - abs(value)
    return low if left < right or (left == right and low % 2 == 0) else high


class Scalar:
    """One stage, evaluated point by point."""

    def __init__(self, program: Program, stage: Stage, dims: dict, memory: dict) -> None:
        self.lines = stage.instructions()
        self.types = {t.name: t.dtype for t in program.tensors()}
        self.dims, self.memory = dims, memory
        self.counts = {name: self.tree(e.tree, {}) for name, e in stage.letters}
        self.known: dict = {}
        self.used = [self.letters(k) for k in range(len(self.lines))]

    def letters(self, k: int) -> set[str]:
        """Return letters that the value may depend on; too many only cost time."""
        line, found = self.lines[k], set()
        for ref in [*vars_of(line)]:
            found |= self.letters(ref.k) if isinstance(ref, Ref) else ref.letters()
        return found - set(getattr(line, "letters", ()))

    def tree(self, tree: tuple, at: dict[str, int]) -> int:
        kind = tree[0]
        if kind == "int":
            return tree[1]
        if kind in ("dim", "letter"):
            return (self.dims if kind == "dim" else at)[tree[1]]
        a, *rest = (self.tree(t, at) for t in tree[1:])
        if kind == "neg":
            return -a
        b = rest[0]
        return {
            "+": a + b,
            "-": a - b,
            "*": a * b,
            "//": kind == "//" and a // b,
            "%": kind == "%" and a % b,
            "min": min(a, b),
            "max": max(a, b),
        }[kind]

    def value(self, k: int, at: dict[str, int]) -> tuple[object, DType]:
        key = (k, *(at[name] for name in self.counts if name in self.used[k]))
        if key not in self.known:
            self.known[key] = self.compute(self.lines[k], at)
        return self.known[key]

    def compute(self, line: object, at: dict[str, int]) -> tuple[object, DType]:
        match line:
            case Load(name, index, fill):
                array = self.memory[name]
                where = tuple(
                    self.value(i.k, at)[0] if isinstance(i, Ref) else self.tree(i.tree, at)
                    for i in index
                )
                inside = all(0 <= i < n for i, n in zip(where, array.shape, strict=True))
                dtype = self.types[name]
                return (array[where].item() if inside or fill is None else fill), dtype
            case Index(e):
                return self.tree(e.tree, at), DType.I64
            case Const(dtype, value):
                return value, dtype
            case Cast(dtype, a):
                value, source = self.value(a.k, at)
                if source is DType.BF16:
                    value = from_bits(value)
                if dtype in (DType.F16, DType.BF16):
                    value = np.float32(value).item()
                if dtype is DType.BF16:
                    return to_bits(value), dtype
                if dtype not in (DType.F32, DType.F64, DType.F16, DType.BOOL):
                    value = math.trunc(value)
                return fit(value, dtype), dtype
            case Select(conds, a, b):
                tests = {"<": int.__lt__, "<=": int.__le__, "==": int.__eq__}
                holds = all(
                    tests[c.op](self.tree(c.left.tree, at), self.tree(c.right.tree, at))
                    for c in conds
                )
                return self.value(a.k if holds else b.k, at)
            case Reduce(op, a, letters):
                found = [self.value(a.k, here)[0] for here in self.points(letters, at)]
                dtype = self.type(a.k)
                return fit(self.reduce(op, found, dtype), dtype), dtype
            case Dot(a, b, letters):
                points = self.points(letters, at)
                total = sum(self.value(a.k, p)[0] * self.value(b.k, p)[0] for p in points)
                return fit(total, DType.F32), DType.F32
            case Apply(op, args):
                given = [self.value(r.k, at) for r in args]
                if op == "where":
                    return given[1] if given[0][0] else given[2]
                values, dtype = [v for v, _ in given], given[0][1]
                result = (UNARY | BINARY)[op](*values)
                to_bool = op in ("is_nan", "is_inf", "eq", "lt", "le")
                return (bool(result), DType.BOOL) if to_bool else (fit(result, dtype), dtype)

    def type(self, k: int) -> DType:
        match self.lines[k]:
            case Load(name, _, _):
                return self.types[name]
            case Const(dtype, _) | Cast(dtype, _):
                return dtype
            case Index(_):
                return DType.I64
            case Apply("where", args):
                return self.type(args[1].k)
        return self.type(next(r for r in vars_of(self.lines[k]) if isinstance(r, Ref)).k)

    def reduce(self, op: str, values: list, dtype: DType) -> object:
        if op == "reduce_sum":
            return sum(values)
        if op == "reduce_prod":
            return math.prod(values)
        largest = op == "reduce_max"
        if any(v != v for v in values):
            return NAN
        if not values and dtype in BITS:
            half = 1 << (BITS[dtype] - 1)
            return -half if largest else half - 1
        return (max if largest else min)(values, default=-INF if largest else INF)

    def points(self, letters: tuple[str, ...], at: dict[str, int]):
        for here in itertools.product(*(range(self.counts[name]) for name in letters)):
            yield at | dict(zip(letters, here, strict=True))

    def store(self, line: Store) -> None:
        array = self.memory[line.tensor]
        names = tuple(name for name in self.counts if any(name in e.letters() for e in line.index))
        for at in self.points(names, {}):
            where = tuple(self.tree(e.tree, at) for e in line.index)
            array[where] = self.value(line.value.k, at)[0]


def vars_of(line: object) -> list:
    """Return the values and expressions that a line names."""
    match line:
        case Load(_, index, _):
            return list(index)
        case Index(e):
            return [e]
        case Cast(_, a) | Reduce(_, a, _):
            return [a]
        case Select(conds, a, b):
            return [a, b, *(e for c in conds for e in (c.left, c.right))]
        case Dot(a, b, _):
            return [a, b]
        case Apply(_, args):
            return list(args)
    return []


def run(program: Program, inputs: list[np.ndarray]) -> list[np.ndarray]:
    """Return the physical outputs."""
    scalars = {k: inputs[k].reshape(-1).tolist() for k, t in enumerate(program.inputs) if t.binds}
    dims = bind(program, [a.shape for a in inputs], scalars)
    memory = {}
    for t, array in zip(program.inputs, inputs, strict=True):
        order = t.order or tuple(range(array.ndim))
        memory[t.name] = np.moveaxis(array, range(array.ndim), order)
    shaped = Scalar(program, Stage((), ()), dims, memory)
    for t in (*program.temps, *program.outputs):
        memory[t.name] = np.zeros([shaped.tree(e.tree, {}) for e in t.shape], t.dtype.numpy)
    with np.errstate(all="ignore"):
        for stage in program.stages:
            point = Scalar(program, stage, dims, memory)
            for line in stage.stores():
                point.store(line)
    return [
        np.moveaxis(memory[t.name], t.order or range(t.rank), range(t.rank))
        for t in program.outputs
    ]
