"""Integer expressions of tile programs: made, compared, simplified, replaced, evaluated."""

from __future__ import annotations

from collections.abc import Mapping

from onnx_fusion.errors import ProgramError
from onnx_fusion.program.algebra import (
    Atom,
    Expr,
    as_int,
    build,
    const,
    dim,
    letter,
    maximum,
    minimum,
    read,
)
from onnx_fusion.program.simplify import at_least_zero, simplify
from onnx_fusion.program.tree import MAX_INT, Tree, show

__all__ = [
    "MAX_INT",
    "MAX_VALUE",
    "Expr",
    "as_int",
    "at_least_zero",
    "build",
    "const",
    "dim",
    "evaluate",
    "interval",
    "letter",
    "maximum",
    "minimum",
    "read",
    "show",
    "simplify",
    "substitute",
]

MAX_VALUE = 1 << 60
"""What every intermediate result of an expression must stay within, at binding."""

Interval = tuple[int, int]


def substitute(expr: Expr, by: Mapping[Expr | str, Expr | int]) -> Expr:
    """Return the expression with letters and dims, named or given as expressions, replaced."""
    names = {key if isinstance(key, str) else str(key): const(0) + e for key, e in by.items()}
    if names.keys().isdisjoint(expr.names()):
        return expr
    return _replace(expr, names)


def _replace(expr: Expr, names: dict[str, Expr]) -> Expr:
    total = const(expr.constant)
    for mono, c in expr.terms.items():
        product = const(c)
        for atom in mono:
            product = product * _replace_atom(atom, names)
        total = total + product
    return total


def _replace_atom(atom: Atom, names: dict[str, Expr]) -> Expr:
    if names.keys().isdisjoint(atom.names):
        return atom.expr()
    if atom.kind in ("dim", "letter"):
        return names[atom.left]
    left = _replace(atom.left, names)
    if atom.kind == "sum":
        return left
    right = _replace(atom.right, names)
    return {"//": Expr.__floordiv__, "%": Expr.__mod__, "min": minimum, "max": maximum}[atom.kind](
        left, right
    )


def evaluate(expr: Expr, env: Mapping[str, int]) -> int:
    """Return the value of the expression, letters and dims taken from `env`.

    Raises ProgramError if a name is missing, a divisor is not positive, or an intermediate result
    of the expression's text is outside +-2^60.
    """
    low, high = _bound(expr.tree, {name: (n, n) for name, n in env.items()})
    assert low == high
    return low


def interval(
    expr: Expr, env: Mapping[str, int], ranges: Mapping[str, Expr | int]
) -> tuple[int, int]:
    """Return bounds of the expression over 0 <= letter < ranges[letter] (section 7).

    The arithmetic follows the expression's text, so that every implementation finds the same
    bounds. Raises ProgramError as `evaluate` does, for any intermediate bound; a letter that occurs
    must not be empty.
    """
    known = {name: (n, n) for name, n in env.items()}
    for name, extent in ranges.items():
        if name in expr.names():
            n = extent if isinstance(extent, int) else evaluate(extent, env)
            known[name] = (0, n - 1)
    return _bound(expr.tree, known)


def _bound(tree: Tree, env: Mapping[str, Interval]) -> Interval:
    kind = tree[0]
    if kind == "int":
        low = high = tree[1]
    elif kind in ("dim", "letter"):
        if tree[1] not in env:
            raise ProgramError(f"{kind} '{tree[1]}' has no value")
        low, high = env[tree[1]]
    elif kind == "neg":
        a, b = _bound(tree[1], env)
        low, high = -b, -a
    else:
        low, high = _RULES[kind](_bound(tree[1], env), _bound(tree[2], env))
    if low < -MAX_VALUE or high > MAX_VALUE:
        raise ProgramError(f"'{show(tree)}' is outside +-2^60")
    return low, high


def _times(a: Interval, b: Interval) -> Interval:
    corners = [x * y for x in a for y in b]
    return min(corners), max(corners)


def _divisor(n: int) -> int:
    if n <= 0:
        raise ProgramError(f"a divisor is {n}, and must be positive")
    return n


def _floor_divide(a: Interval, b: Interval) -> Interval:
    c = _divisor(b[0])
    return a[0] // c, a[1] // c


def _remainder(a: Interval, b: Interval) -> Interval:
    c = _divisor(b[0])
    return (a[0] % c, a[1] % c) if a[0] // c == a[1] // c else (0, c - 1)


_RULES = {
    "+": lambda a, b: (a[0] + b[0], a[1] + b[1]),
    "-": lambda a, b: (a[0] - b[1], a[1] - b[0]),
    "*": _times,
    "//": _floor_divide,
    "%": _remainder,
    "min": lambda a, b: (min(a[0], b[0]), min(a[1], b[1])),
    "max": lambda a, b: (max(a[0], b[0]), max(a[1], b[1])),
}
