"""A tile program in memory: what `text` prints and parses, `verify` checks and `interpret` runs.

docs/tile_program.md says what each part means.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator

import numpy as np

from onnx_fusion.dtypes import DType
from onnx_fusion.program.expr import Expr

Literal = float | int | bool

FLOATS = frozenset({DType.F32, DType.F64, DType.F16, DType.BF16})


def literal(dtype: DType, value: object) -> Literal:
    """Return the value as a program holds it: a float rounded to the type, an int, or a bool.

    The result is a plain Python number. Raises OverflowError for an integer outside the type.
    """
    if dtype is DType.BOOL:
        return bool(value)
    if dtype not in FLOATS:
        number = int(value)
        info = np.iinfo(dtype.numpy)
        if not info.min <= number <= info.max:
            raise OverflowError(f"{number} is outside {dtype}")
        return number
    number = float(value)
    if math.isnan(number):
        return math.nan
    with np.errstate(over="ignore"):
        if dtype is DType.BF16:
            return float(from_bf16(to_bf16(np.array([number])))[0])
        return float(dtype.numpy.type(number))


def to_bf16(values: np.ndarray) -> np.ndarray:
    """Return floats as the bits of bf16 (uint16), rounded once to nearest even."""
    single = values.astype(np.float32)
    bits = single.view(np.uint32)
    # A double that only float32 rounds onto a tie is moved back to its side of it.
    tie = ((bits & np.uint32(0xFFFF)) == 0x8000) & (single != values)
    away = np.abs(values) > np.abs(single)
    bits = np.where(tie, np.where(away, bits + np.uint32(1), bits - np.uint32(1)), bits)
    rounded = ((bits + (np.uint32(0x7FFF) + ((bits >> 16) & np.uint32(1)))) >> 16).astype(np.uint16)
    nan = ((bits >> 16) | np.uint32(0x40)).astype(np.uint16)
    return np.where(np.isnan(values), nan, rounded)


def from_bf16(bits: np.ndarray) -> np.ndarray:
    """Return the float32 values of bf16 bits."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def _same(a: Literal | None, b: Literal | None) -> bool:
    """Return whether two literals are written alike: 0.0 is not -0.0, and nan is nan."""
    return a is b or (a == b and str(a) == str(b))


@dataclasses.dataclass(frozen=True, slots=True)
class Ref:
    """The value of the stage's k-th instruction."""

    k: int

    def __str__(self) -> str:
        return f"%{self.k}"


@dataclasses.dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor in memory: its logical shape, and the order of dims in memory (None for row)."""

    name: str
    dtype: DType
    shape: tuple[Expr, ...]
    order: tuple[int, ...] | None = None

    @property
    def rank(self) -> int:
        return len(self.shape)

    def physical(self, shape: tuple) -> tuple:
        """Return the logical shape, or anything per logical dim, in memory's order."""
        return shape if self.order is None else tuple(shape[d] for d in self.order)

    def logical(self, shape: tuple) -> tuple:
        """Return the physical shape, or anything per physical dim, in the order of index maps."""
        if self.order is None:
            return shape
        return tuple(shape[self.order.index(d)] for d in range(len(shape)))


@dataclasses.dataclass(frozen=True, slots=True)
class Input(Tensor):
    """An input tensor; `binds` names the dims that its contents define."""

    binds: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Load:
    """The element of a tensor at an index per logical dim; `fill`, unless None, where outside."""

    tensor: str
    index: tuple[Expr | Ref, ...]
    fill: Literal | None = None

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Load):
            return NotImplemented
        same = self.tensor == other.tensor and self.index == other.index
        return same and _same(self.fill, other.fill)

    def __hash__(self) -> int:
        return hash((self.tensor, self.index, self.fill))


@dataclasses.dataclass(frozen=True, slots=True)
class Index:
    """The value of an expression, i64."""

    expr: Expr


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Const:
    """A constant; the value is rounded to the type when the object is made."""

    dtype: DType
    value: Literal

    def __post_init__(self) -> None:
        object.__setattr__(self, "value", literal(self.dtype, self.value))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Const):
            return NotImplemented
        return self.dtype is other.dtype and _same(self.value, other.value)

    def __hash__(self) -> int:
        return hash((self.dtype, self.value))


@dataclasses.dataclass(frozen=True, slots=True)
class Cast:
    """A value converted to a type."""

    dtype: DType
    a: Ref


@dataclasses.dataclass(frozen=True, slots=True)
class Cond:
    """A comparison of two expressions; `op` is one of < <= ==."""

    left: Expr
    op: str
    right: Expr


@dataclasses.dataclass(frozen=True, slots=True)
class Select:
    """`a` where all conditions hold, else `b`."""

    conds: tuple[Cond, ...]
    a: Ref
    b: Ref


@dataclasses.dataclass(frozen=True, slots=True)
class Reduce:
    """A reduction over letters; `op` is a name with `reduce_`."""

    op: str
    a: Ref
    letters: tuple[str, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Dot:
    """The sum over letters of a * b."""

    a: Ref
    b: Ref
    letters: tuple[str, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Apply:
    """An instruction of the table in `instructions`, on one to three values."""

    op: str
    args: tuple[Ref, ...]


Instruction = Load | Index | Const | Cast | Select | Reduce | Dot | Apply


@dataclasses.dataclass(frozen=True, slots=True)
class Store:
    """A value written to a temp or output at an index per logical dim."""

    tensor: str
    index: tuple[Expr, ...]
    value: Ref


@dataclasses.dataclass(frozen=True, slots=True)
class Stage:
    """A loop nest over `letters`, each with its extent, around a straight-line body."""

    letters: tuple[tuple[str, Expr], ...]
    body: tuple[Instruction | Store, ...]

    def instructions(self) -> tuple[Instruction, ...]:
        """Return the body without its stores: Ref(k) is the k-th."""
        return tuple(line for line in self.body if not isinstance(line, Store))

    def stores(self) -> tuple[Store, ...]:
        return tuple(line for line in self.body if isinstance(line, Store))


@dataclasses.dataclass(frozen=True, slots=True)
class Program:
    """A whole tile program. `dims` are the `dim` lines; others are bound by the inputs' shapes."""

    strict: bool
    inputs: tuple[Input, ...]
    dims: tuple[tuple[str, Expr], ...]
    temps: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    stages: tuple[Stage, ...]

    def tensors(self) -> Iterator[Tensor]:
        """Yield inputs, temps and outputs."""
        yield from self.inputs
        yield from self.temps
        yield from self.outputs


def refs(line: Instruction | Store) -> tuple[Ref, ...]:
    """Return the values that a line of a body uses, in the text's order."""
    match line:
        case Load(_, index, _):
            return tuple(i for i in index if isinstance(i, Ref))
        case Cast(_, a) | Reduce(_, a, _):
            return (a,)
        case Select(_, a, b) | Dot(a, b, _):
            return (a, b)
        case Apply(_, args):
            return args
        case Store(_, _, value):
            return (value,)
    return ()
