"""The table of instructions: one row for each name that takes only values.

`verify` reads arity and types, `interpret` the NumPy function, tests everything. The functions take
and give arrays of the operands' type; those of `wide` rows are given float64 for f32 operands, and
their result is rounded, so that the interpreter is exact to half a unit in the last place.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import numpy as np

from onnx_fusion.dtypes import DType

F = frozenset({DType.F32, DType.F64})
I = frozenset({DType.I32, DType.I64})  # noqa: E741
B = frozenset({DType.BOOL})


@dataclasses.dataclass(frozen=True, slots=True)
class Row:
    """An instruction: operands of one of `types`, all the same; the result is too, or is bool."""

    name: str
    arity: int
    types: frozenset[DType]
    function: Callable[..., np.ndarray]
    to_bool: bool = False
    wide: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class Reduction:
    """A reduction: a ufunc, and what it gives over nothing, by type."""

    name: str
    ufunc: np.ufunc
    nothing: Callable[[DType], float | int]
    wide: bool = False


def _is_float(a: np.ndarray) -> bool:
    return a.dtype.kind == "f"


_erf = np.frompyfunc(math.erf, 1, 1)


def _sigmoid(a: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-a))


def _divide(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return a / b; integers truncate, x / 0 = 0, and the smallest divided by -1 is itself."""
    if _is_float(a):
        return a / b
    a, b = np.broadcast_arrays(a, b)
    divisor = np.where((b == 0) | (b == -1), 1, b).astype(a.dtype)
    floor = a // divisor
    inexact = floor * divisor != a
    truncated = floor + (inexact & ((a < 0) != (divisor < 0))).astype(a.dtype)
    return np.where(b == 0, np.zeros_like(a), np.where(b == -1, -a, truncated))


def _remainder(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the remainder with the divisor's sign; of integers, x mod 0 = 0."""
    return np.mod(a, b) if _is_float(a) else _safe(np.mod, a, b)


def _fmod(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the remainder with the dividend's sign; of integers, x fmod 0 = 0."""
    return np.fmod(a, b) if _is_float(a) else _safe(np.fmod, a, b)


def _safe(op: np.ufunc, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    trivial = (b == 0) | (b == -1)
    return np.where(trivial, np.zeros_like(a), op(a, np.where(trivial, 1, b).astype(b.dtype)))


def _pow(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return C's pow, where np.power takes a square root if every exponent is 0.5."""
    power = np.power(a, b)
    return np.where(b == 0.5, np.where(a == -math.inf, math.inf, power + 0.0), power)


def _where(c: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.where(c, a, b)


_ROWS = (
    Row("neg", 1, F | I, np.negative),
    Row("abs", 1, F | I, np.abs),
    Row("sign", 1, F | I, np.sign),
    Row("sqrt", 1, F, np.sqrt),
    Row("exp", 1, F, np.exp, wide=True),
    Row("log", 1, F, np.log, wide=True),
    Row("sin", 1, F, np.sin, wide=True),
    Row("cos", 1, F, np.cos, wide=True),
    Row("tan", 1, F, np.tan, wide=True),
    Row("asin", 1, F, np.arcsin, wide=True),
    Row("acos", 1, F, np.arccos, wide=True),
    Row("atan", 1, F, np.arctan, wide=True),
    Row("sinh", 1, F, np.sinh, wide=True),
    Row("cosh", 1, F, np.cosh, wide=True),
    Row("tanh", 1, F, np.tanh, wide=True),
    Row("asinh", 1, F, np.arcsinh, wide=True),
    Row("acosh", 1, F, np.arccosh, wide=True),
    Row("atanh", 1, F, np.arctanh, wide=True),
    Row("erf", 1, F, lambda a: np.asarray(_erf(a), a.dtype), wide=True),
    Row("sigmoid", 1, F, _sigmoid, wide=True),
    Row("floor", 1, F, np.floor),
    Row("ceil", 1, F, np.ceil),
    Row("round", 1, F, np.rint),
    Row("is_nan", 1, F, np.isnan, to_bool=True),
    Row("is_inf", 1, F, np.isinf, to_bool=True),
    Row("not", 1, B | I, np.invert),
    Row("add", 2, F | I, np.add),
    Row("sub", 2, F | I, np.subtract),
    Row("mul", 2, F | I, np.multiply),
    Row("div", 2, F | I, _divide),
    Row("mod", 2, F | I, _remainder),
    Row("fmod", 2, F | I, _fmod),
    Row("pow", 2, F, _pow, wide=True),
    Row("min", 2, F | I, np.minimum),
    Row("max", 2, F | I, np.maximum),
    Row("and", 2, B | I, np.bitwise_and),
    Row("or", 2, B | I, np.bitwise_or),
    Row("xor", 2, B | I, np.bitwise_xor),
    Row("eq", 2, B | F | I, np.equal, to_bool=True),
    Row("lt", 2, F | I, np.less, to_bool=True),
    Row("le", 2, F | I, np.less_equal, to_bool=True),
    # The condition is bool; `types` are those of the other two.
    Row("where", 3, frozenset(DType), _where),
)


def _lowest(dtype: DType) -> float | int:
    return -math.inf if dtype in F else int(np.iinfo(dtype.numpy).min)


def _highest(dtype: DType) -> float | int:
    return math.inf if dtype in F else int(np.iinfo(dtype.numpy).max)


_REDUCTIONS = (
    Reduction("reduce_sum", np.add, lambda _: 0, wide=True),
    Reduction("reduce_max", np.maximum, _lowest),
    Reduction("reduce_min", np.minimum, _highest),
    Reduction("reduce_prod", np.multiply, lambda _: 1, wide=True),
)

INSTRUCTIONS: dict[str, Row] = {row.name: row for row in _ROWS}
REDUCTIONS: dict[str, Reduction] = {row.name: row for row in _REDUCTIONS}
ARITHMETIC = F | I


def result_type(op: str, args: tuple[DType, ...]) -> DType | None:
    """Return the type an instruction gives for operands of these types, None if there is none."""
    row = INSTRUCTIONS.get(op)
    if row is None or len(args) != row.arity:
        return None
    if op == "where":
        return args[1] if args[0] is DType.BOOL and args[1] is args[2] else None
    if args[0] not in row.types or any(a is not args[0] for a in args):
        return None
    return DType.BOOL if row.to_bool else args[0]
