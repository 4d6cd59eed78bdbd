"""Rewriting of expressions by what is known of their letters and dims."""

from __future__ import annotations

from collections.abc import Mapping, Set

from onnx_fusion.program.algebra import (
    Atom,
    Expr,
    as_int,
    const,
    maximum,
    minimum,
)
from onnx_fusion.program.division import remove, split

_ZERO, _ONE = const(0), const(1)


def simplify(expr: Expr, ranges: Mapping[str, Expr | int], signed: Set[str] = frozenset()) -> Expr:
    """Return an expression equal to `expr` wherever 0 <= letter < ranges[letter] and dims are >= 0.

    `ranges` must be those of one stage: the result is only good where none of the letters that
    occur in `expr` is empty, so a dim that is the range of such a letter counts as >= 1. Nothing is
    assumed of the dims in `signed` (those bound to data, which may be negative) nor of letters
    without a range. Divisors are assumed to be positive.
    """
    if _is_plain(expr, ranges):
        return expr
    facts = _Facts(ranges, signed, expr.letters())
    for _ in range(4):
        before = expr
        expr = facts.join(facts.rebuild(expr))
        if expr == before:
            break
    return expr


def _is_plain(expr: Expr, ranges: Mapping[str, Expr | int]) -> bool:
    """Return whether an expression has only dims and letters of more than one value."""
    for mono in expr.terms:
        for atom in mono:
            if atom.kind == "letter":
                if ranges.get(atom.left) == _ONE:
                    return False
            elif atom.kind != "dim":
                return False
    return True


def at_least_zero(
    expr: Expr, ranges: Mapping[str, Expr | int], signed: Set[str] = frozenset()
) -> bool:
    """Return whether `expr` >= 0 can be shown under the assumptions of `simplify`."""
    return _Facts(ranges, signed, expr.letters()).proves(expr)


class _Facts:
    def __init__(
        self, ranges: Mapping[str, Expr | int], signed: Set[str], letters: Set[str]
    ) -> None:
        self.ranges = {name: _ZERO + extent for name, extent in ranges.items()}
        self.signed = signed
        self.positive = set()
        for name in letters & self.ranges.keys():
            extent = self.ranges[name]
            self.positive |= extent.dims() if _is_dim(extent) else set()
        self.positive -= signed
        self.atoms: dict[Atom, Expr] = {}

    def rebuild(self, expr: Expr) -> Expr:
        total = const(expr.constant)
        for mono, c in expr.terms.items():
            product = const(c)
            for atom in mono:
                product = product * self.atom(atom)
            total = total + product
        return total

    def atom(self, atom: Atom) -> Expr:
        known = self.atoms.get(atom)
        if known is None:
            known = self.atoms[atom] = self.reduce(atom)
        return known

    def reduce(self, atom: Atom) -> Expr:
        kind = atom.kind
        if kind == "dim":
            return atom.expr()
        if kind == "letter":
            return _ZERO if self.ranges.get(atom.left) == _ONE else atom.expr()
        left = self.rebuild(atom.left)
        if kind == "sum":
            return left
        right = self.rebuild(atom.right)
        if kind == "//":
            return self.divide(left, right)[0]
        if kind == "%":
            return self.divide(left, right)[1]
        if self.proves(right - left):
            return left if kind == "min" else right
        if self.proves(left - right):
            return right if kind == "min" else left
        return minimum(left, right) if kind == "min" else maximum(left, right)

    def divide(self, left: Expr, right: Expr) -> tuple[Expr, Expr]:
        """Return left // right and left % right.

        With left = g * a + b, right = g * m and 0 <= b < g, the quotient is a // m, and the
        remainder g * (a % m) + b.
        """
        divisor = as_int(right)
        if divisor is not None and divisor <= 0:
            return left // right, left % right
        whole, rest = split(left, right)
        if self.within(rest, right):
            return whole, rest
        if self.within(rest + right, right):
            return whole - 1, rest + right
        for g in _factors(rest, right):
            a, b = split(rest, g)
            m, zero = split(right, g)
            smaller = a.terms and zero == _ZERO and m != right
            if smaller and self.within(b, g) and self.proves(g - 1):
                quotient, remainder = self.divide(a, m)
                return whole + quotient, remainder * g + b
        return whole + rest // right, rest % right

    def within(self, expr: Expr, end: Expr) -> bool:
        return self.proves(expr) and self.proves(end - 1 - expr)

    def join(self, expr: Expr) -> Expr:
        """Return the expression with c * m * (x // m) + c * (x % m) written as c * x."""
        found = True
        while found:
            found = False
            for mono, c in expr.terms.items():
                for atom in mono:
                    if atom.kind != "%":
                        continue
                    rest = const(c)
                    for other in remove(mono, (atom,)):
                        rest = rest * other.expr()
                    x, m = atom.left, atom.right
                    joined = expr - rest * atom.expr() - rest * m * (x // m) + rest * x
                    if _size(joined) < _size(expr):
                        expr, found = joined, True
                        break
                if found:
                    break
        return expr

    def proves(self, expr: Expr) -> bool:
        """Return whether a lower bound of the expression is a sum of products that are >= 0."""
        low = self.lower(expr)
        if low is None:
            return False
        shifted = const(low.constant)
        for mono, c in low.terms.items():
            product = const(c)
            for atom in mono:
                product = product * (atom.expr() + (1 if atom.left in self.positive else 0))
            shifted = shifted + product
        if shifted.constant < 0:
            return False
        return all(c > 0 and all(map(self.natural, m)) for m, c in shifted.terms.items())

    def natural(self, atom: Atom) -> bool:
        """Return whether a letter-free atom is never negative."""
        if atom.kind == "dim":
            return atom.left not in self.signed
        if atom.kind == "%":
            return True
        if atom.kind in ("//", "sum"):
            return self.proves(atom.left)
        left, right = self.proves(atom.left), self.proves(atom.right)
        return left and right if atom.kind == "min" else left or right

    def lower(self, expr: Expr) -> Expr | None:
        """Return a letter-free expression that is never above `expr`, None if none is found."""
        for _ in range(32):
            atom = next((a for m in expr.terms for a in m if a.lettered), None)
            if atom is None:
                return expr
            slope, rest = _ZERO, const(expr.constant)
            for mono, c in expr.terms.items():
                term = const(c)
                for a in mono:
                    term = term * a.expr() if a is not atom else term
                if mono.count(atom) > 1:
                    return None
                if atom in mono:
                    slope = slope + term
                else:
                    rest = rest + term
            bounds = self.bounds(atom)
            if bounds[0] is not None and self.proves(slope):
                expr = rest + slope * bounds[0]
            elif bounds[1] is not None and self.proves(-slope):
                expr = rest + slope * bounds[1]
            else:
                return None
        return None

    def upper(self, expr: Expr) -> Expr | None:
        low = self.lower(-expr)
        return None if low is None else -low

    def bounds(self, atom: Atom) -> tuple[Expr | None, Expr | None]:
        """Return letter-free bounds of an atom with letters, None where none is found."""
        if atom.kind == "letter":
            extent = self.ranges.get(atom.left)
            return (None, None) if extent is None else (_ZERO, extent - 1)
        if atom.kind == "%":
            return _ZERO, atom.right - 1
        low, high = self.lower(atom.left), self.upper(atom.left)
        if atom.kind == "sum":
            return low, high
        if atom.kind == "//":
            return (
                None if low is None else low // atom.right,
                None if high is None else high // atom.right,
            )
        low2, high2 = self.lower(atom.right), self.upper(atom.right)
        pick = minimum if atom.kind == "min" else maximum
        return (
            None if low is None or low2 is None else pick(low, low2),
            None if high is None or high2 is None else pick(high, high2),
        )


def _is_dim(expr: Expr) -> bool:
    return len(expr.terms) == 1 and not expr.constant and _only_atom(expr).kind == "dim"


def _only_atom(expr: Expr) -> Atom:
    ((mono, _),) = expr.terms.items()
    return mono[0]


def _size(expr: Expr) -> int:
    return len(expr.terms) + bool(expr.constant)


def _factors(expr: Expr, by: Expr) -> list[Expr]:
    """Return what `by`, a single product, shares with each term of `expr`, largest share first."""
    if len(by.terms) > 1 or (by.terms and by.constant):
        return []
    ((mono, k),) = by.terms.items() if by.terms else [((), by.constant)]
    found = []
    for m, c in expr.terms.items():
        share = const(_gcd(c, k))
        left = list(m)
        for atom in mono:
            if atom in left:
                left.remove(atom)
                share = share * atom.expr()
        if share != _ONE and share not in found:
            found.append(share)
    return sorted(found, key=lambda e: (-sum(map(len, e.terms)), -_lead(e), str(e)))


def _lead(expr: Expr) -> int:
    return next(iter(expr.terms.values()), expr.constant)


def _gcd(a: int, b: int) -> int:
    while b:
        a, b = b, a % b
    return abs(a)
