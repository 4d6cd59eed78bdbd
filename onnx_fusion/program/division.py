"""Division of expressions by positive ones: what leaves a quotient or a remainder, and what stays.

`//` and `%` of `algebra.Expr` are these functions, which make expressions in turn.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from onnx_fusion.program import algebra

if TYPE_CHECKING:
    from onnx_fusion.program.algebra import Atom, Expr


def quotient(e: Expr, by: Expr) -> Expr:
    """Return e // by."""
    if by.terms:
        return _divide(e, by)[0]
    number = by.constant
    return _divide_int(e, number) if number > 0 else algebra.pair("//", e, by)


def remainder(e: Expr, by: Expr) -> Expr:
    """Return e % by."""
    if by.terms:
        return _divide(e, by)[1]
    number = by.constant
    return _modulo_int(e, number) if number > 0 else algebra.pair("%", e, by)


def _cut(c: int, n: int) -> tuple[int, int]:
    """Return quotient and remainder of c by n > 0, the remainder with the sign of c."""
    r = c % n if c >= 0 else -(-c % n)
    return (c - r) // n, r


def _divide_int(e: Expr, n: int) -> Expr:
    """Return e // n for n > 0: multiples of n leave, then common factors, then inner divisions."""
    if n == 1:
        return e
    whole: dict[tuple[Atom, ...], int] = {}
    rest: dict[tuple[Atom, ...], int] = {}
    for mono, c in e.terms.items():
        named = len(mono) == 1 and mono[0].kind in ("dim", "letter")
        q, r = _cut(c, n) if named or c % n == 0 else (0, c)
        if q:
            whole[mono] = q
        if r:
            rest[mono] = r
    number, constant = divmod(e.constant, n)
    left = algebra.make(number, whole)
    if not rest:
        return left
    g = math.gcd(n, *rest.values())
    if g > 1:
        rest = {m: c // g for m, c in rest.items()}
        constant, n = constant // g, n // g
    if len(rest) == 1:
        ((mono, c),) = rest.items()
        inner = mono[0]
        if c == 1 and len(mono) == 1 and inner.kind == "//":
            m = inner.right.constant
            if not inner.right.terms and m > 0:
                return left + _divide_int(inner.left + constant * m, m * n)
    return left + algebra.pair("//", algebra.make(constant, rest), algebra.const(n))


def _modulo_int(e: Expr, n: int) -> Expr:
    """Return e % n for n > 0: multiples of n leave, then inner remainders, then common factors."""
    if n == 1:
        return algebra.const(0)
    rest: dict[tuple[Atom, ...], int] = {}
    inner = algebra.const(0)
    for mono, c in e.terms.items():
        r = _cut(c, n)[1]
        a = mono[0]
        if r and len(mono) == 1 and a.kind == "%" and not a.right.terms:
            m = a.right.constant
            if m > 0 and m % n == 0:
                inner += a.left * r
                continue
        if r:
            rest[mono] = r
    if inner.terms:
        return _modulo_int(algebra.make(e.constant, rest) + inner, n)
    constant = (e.constant + inner.constant) % n
    if not rest:
        return algebra.const(constant)
    g = math.gcd(n, *rest.values())
    if g > 1:
        high, low = divmod(constant, g)
        scaled = algebra.make(high, {m: c // g for m, c in rest.items()})
        return algebra.scale(algebra.pair("%", scaled, algebra.const(n // g)), g) + low
    return algebra.pair("%", algebra.make(constant, rest), algebra.const(n))


def _divide(e: Expr, by: Expr) -> tuple[Expr, Expr]:
    """Return e // by and e % by for a `by` with names; multiples of it leave the numerator."""
    whole, rest = split(e, by)
    if not rest.terms and not rest.constant:
        return whole, rest
    return whole + algebra.pair("//", rest, by), algebra.pair("%", rest, by)


def split(e: Expr, by: Expr) -> tuple[Expr, Expr]:
    """Return (q, r) with e == q * by + r, where q takes every term that is a multiple of `by`."""
    if len(by.terms) == 1 and not by.constant:
        ((mono, k),) = by.terms.items()
        whole: dict[tuple[Atom, ...], int] = {}
        rest: dict[tuple[Atom, ...], int] = {}
        base = 0
        for m, c in e.terms.items():
            left = remove(m, mono)
            if left is None or c % k:
                rest[m] = c
            elif left:
                whole[left] = c // k
            else:
                base = c // k
        return algebra.make(base, whole), algebra.make(e.constant, rest)
    if not by.terms:
        pairs = {m: _cut(c, by.constant) for m, c in e.terms.items()}
        q, r = divmod(e.constant, by.constant)
        return (
            algebra.make(q, {m: p[0] for m, p in pairs.items() if p[0]}),
            algebra.make(r, {m: p[1] for m, p in pairs.items() if p[1]}),
        )
    whole, rest = algebra.const(0), e
    for factor, c in collect(e).items():
        if c == by:
            part = algebra.make(0, {factor: 1}) if factor else algebra.const(1)
            whole, rest = whole + part, rest - part * by
    return whole, rest


def remove(mono: tuple[Atom, ...], part: tuple[Atom, ...]) -> tuple[Atom, ...] | None:
    """Return the factors of `mono` without those of `part`, None if it lacks one."""
    left = list(mono)
    for atom in part:
        if atom not in left:
            return None
        left.remove(atom)
    return tuple(left)


def collect(e: Expr) -> dict[tuple[Atom, ...], Expr]:
    """Return the expression by its products of factors with letters, each with its coefficient."""
    groups: dict[tuple[Atom, ...], Expr] = {}
    for mono, c in e.terms.items():
        with_letters = tuple(a for a in mono if a.lettered)
        without = tuple(a for a in mono if not a.lettered)
        part = algebra.make(0, {without: c}) if without else algebra.const(c)
        groups[with_letters] = groups.get(with_letters, algebra.const(0)) + part
    if e.constant:
        groups[()] = groups.get((), algebra.const(0)) + e.constant
    return groups
