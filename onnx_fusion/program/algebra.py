"""Integer expressions over dims and letters, held as polynomials with a unique normal form.

An `Expr` is a constant plus integer multiples of monomials. A monomial is a sorted tuple of atoms;
an atom is a dim, a letter, or a `//`, `%`, `min` or `max` of two expressions. Atoms are interned,
so two expressions are equal exactly if their constants and terms are. Every expression also has a
syntax tree, what its text reads back as: one derived from the normal form, or, for an expression
that was read from text, the text's own, since the rules of a program are about its text.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable

from onnx_fusion.program.tree import Tree, derive, show

# Products stay factored beyond this many characters: a text may hold (a + b) * (c + d) * ...
_MAX_TEXT = 1000


class Atom:
    """An indivisible factor; one object per distinct atom, compared by identity."""

    __slots__ = ("kind", "left", "right", "text", "names", "lettered")

    def __init__(self, kind: str, left: Expr | str, right: Expr | None) -> None:
        self.kind = kind
        self.left = left
        self.right = right
        if kind == "dim" or kind == "letter":
            self.names = frozenset((left,))
            self.lettered = kind == "letter"
        else:
            sides = (left,) if right is None else (left, right)
            self.names = frozenset().union(*(side.names() for side in sides))
            self.lettered = any(side.letters() for side in sides)
        self.text = show(self.tree())

    def tree(self) -> Tree:
        if self.kind == "dim" or self.kind == "letter":
            return (self.kind, self.left)
        if self.right is None:
            return self.left.tree
        return (self.kind, self.left.tree, self.right.tree)

    def expr(self) -> Expr:
        return _make(0, {(self,): 1})


class Expr:
    """An immutable, hashable integer expression; ints stand on either side of its operators.

    `a // b` and `a % b` are floor division and remainder for b > 0, and have no value otherwise.
    """

    __slots__ = ("_const", "_terms", "_tree", "_hash", "_names")

    def __init__(self) -> None:
        raise TypeError("make expressions with const, dim, letter and operators")

    @property
    def terms(self) -> dict[tuple[Atom, ...], int]:
        """The monomials and their coefficients, none zero; not to be changed."""
        if self._terms is None:
            self._normalize()
        return self._terms

    @property
    def constant(self) -> int:
        """The constant term."""
        if self._terms is None:
            self._normalize()
        return self._const

    @property
    def tree(self) -> Tree:
        """The syntax tree of the expression's text."""
        if self._tree is None:
            self._tree = derive(self._const, self._terms)
        return self._tree

    def names(self) -> frozenset[str]:
        """Return the names of all letters and dims; of an expression read, all that are written."""
        if self._names is None:
            self._names = frozenset().union(*(a.names for m in self._terms for a in m))
        return self._names

    def letters(self) -> frozenset[str]:
        """Return the names of the letters that occur."""
        return frozenset(n for n in self.names() if n[0].islower())

    def dims(self) -> frozenset[str]:
        """Return the names of the dims that occur."""
        return frozenset(n for n in self.names() if n[0].isupper())

    def _normalize(self) -> None:
        form = build(self._tree)
        self._const, self._terms = form._const, form._terms

    def __hash__(self) -> int:
        if self._hash is None:
            terms = self.terms
            form = (self._const, frozenset(terms.items())) if terms else self._const
            self._hash = hash(form)
        return self._hash

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if isinstance(other, Expr):
            return self.terms == other.terms and self._const == other._const
        if isinstance(other, int):
            return not self.terms and self._const == other
        return NotImplemented

    def __repr__(self) -> str:
        return show(self.tree)

    def __reduce__(self) -> tuple:
        return (build, (self.tree,))

    def __add__(self, other: Expr | int) -> Expr:
        if other.__class__ is int:
            return self if other == 0 else _make(self.constant + other, self.terms)
        other = _lift(other)
        if other is None:
            return NotImplemented
        ours, theirs = self.terms, other.terms
        if not theirs:
            return _make(self._const + other._const, ours)
        if not ours:
            return _make(self._const + other._const, theirs)
        terms = dict(ours)
        for mono, c in theirs.items():
            c += terms.get(mono, 0)
            if c:
                terms[mono] = c
            else:
                del terms[mono]
        return _make(self._const + other._const, terms)

    def __neg__(self) -> Expr:
        return _make(-self.constant, {m: -c for m, c in self.terms.items()})

    def __sub__(self, other: Expr | int) -> Expr:
        if other.__class__ is int:
            return self + -other
        other = _lift(other)
        return NotImplemented if other is None else self + -other

    def __rsub__(self, other: int) -> Expr:
        return -self + other

    def __mul__(self, other: Expr | int) -> Expr:
        if other.__class__ is int:
            return _scale(self, other)
        other = _lift(other)
        if other is None:
            return NotImplemented
        if not other.terms:
            return _scale(self, other._const)
        if not self.terms:
            return _scale(other, self._const)
        if _count(self) * _size(other) + _count(other) * _size(self) > _MAX_TEXT:
            self, other = _seal(self), _seal(other)
        left = [((), self._const), *self._terms.items()]
        right = [((), other._const), *other._terms.items()]
        terms: dict[tuple[Atom, ...], int] = {}
        for m, a in left:
            for n, b in right:
                if a and b:
                    mono = tuple(sorted(m + n, key=_text)) if m and n else m or n
                    terms[mono] = terms.get(mono, 0) + a * b
        total = terms.pop((), 0)
        return _make(total, {m: c for m, c in terms.items() if c})

    __radd__ = __add__
    __rmul__ = __mul__

    def __floordiv__(self, other: Expr | int) -> Expr:
        other = _lift(other)
        if other is None:
            return NotImplemented
        if other.terms:
            return _divide(self, other)[0]
        return _divide_int(self, other._const) if other._const > 0 else _pair("//", self, other)

    def __rfloordiv__(self, other: int) -> Expr:
        return const(other) // self

    def __mod__(self, other: Expr | int) -> Expr:
        other = _lift(other)
        if other is None:
            return NotImplemented
        if other.terms:
            return _divide(self, other)[1]
        return _modulo_int(self, other._const) if other._const > 0 else _pair("%", self, other)

    def __rmod__(self, other: int) -> Expr:
        return const(other) % self


def _make(
    constant: int, terms: dict[tuple[Atom, ...], int] | None, tree: Tree | None = None
) -> Expr:
    e = Expr.__new__(Expr)
    e._const = constant
    e._terms = terms
    e._tree = tree
    e._hash = None
    e._names = None
    return e


def _lift(value: Expr | int) -> Expr | None:
    if isinstance(value, Expr):
        return value
    try:
        return const(operator.index(value))
    except TypeError:
        return None


def _text(atom: Atom) -> str:
    return atom.text


_ATOMS: dict[tuple, Atom] = {}
_SMALL = [_make(n, {}) for n in range(1025)]


def _intern(kind: str, left: Expr | str, right: Expr | None = None) -> Atom:
    key = (kind, left, right)
    atom = _ATOMS.get(key)
    return atom if atom is not None else _ATOMS.setdefault(key, Atom(kind, left, right))


def const(n: int) -> Expr:
    """Return the expression that is always n."""
    return _SMALL[n] if 0 <= n <= 1024 else _make(int(n), {})


def dim(name: str) -> Expr:
    """Return the dim of this name, which starts with a capital."""
    return _intern("dim", name).expr()


def letter(name: str) -> Expr:
    """Return the letter of this name, which starts with a small letter."""
    return _intern("letter", name).expr()


def minimum(a: Expr | int, b: Expr | int) -> Expr:
    """Return the smaller of two expressions."""
    return _choose("min", _lift(a), _lift(b))


def maximum(a: Expr | int, b: Expr | int) -> Expr:
    """Return the larger of two expressions."""
    return _choose("max", _lift(a), _lift(b))


def read(tree: Tree, names: Iterable[str]) -> Expr:
    """Return the expression that a text says: the tree stays, `names` are those written in it."""
    e = _make(0, None, tree)
    e._names = frozenset(names)
    return e


def build(tree: Tree) -> Expr:
    """Return the expression of a tree in normal form."""
    return _BUILD[tree[0]](*tree[1:])


def _binary(op: Callable) -> Callable[[Tree, Tree], Expr]:
    return lambda a, b: op(build(a), build(b))


_BUILD: dict[str, Callable[..., Expr]] = {
    "int": const,
    "dim": dim,
    "letter": letter,
    "neg": lambda a: -build(a),
    "+": _binary(operator.add),
    "-": _binary(operator.sub),
    "*": _binary(operator.mul),
    "//": _binary(operator.floordiv),
    "%": _binary(operator.mod),
    "min": _binary(minimum),
    "max": _binary(maximum),
}


def _pair(kind: str, left: Expr, right: Expr) -> Expr:
    return _intern(kind, left, right).expr()


def _choose(kind: str, a: Expr, b: Expr) -> Expr:
    gap = a - b
    if not gap.terms:
        return a if (gap._const <= 0) == (kind == "min") else b
    if str(b) < str(a):
        a, b = b, a
    return _pair(kind, a, b)


def _scale(e: Expr, n: int) -> Expr:
    if n == 1:
        return e
    if n == 0:
        return _SMALL[0]
    return _make(e.constant * n, {m: c * n for m, c in e.terms.items()})


def _seal(e: Expr) -> Expr:
    """Return the sum `e` as one atom, so that a product with it is not multiplied out."""
    return e if _count(e) == 1 else _pair("sum", e, None)


def _count(e: Expr) -> int:
    return len(e._terms) + (e._const != 0)


def _size(e: Expr) -> int:
    return sum(len(a.text) for m in e._terms for a in m)


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
    quotient, constant = divmod(e.constant, n)
    if not rest:
        return _make(quotient, whole)
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
                return _make(quotient, whole) + _divide_int(inner.left + constant * m, m * n)
    return _make(quotient, whole) + _pair("//", _make(constant, rest), const(n))


def _modulo_int(e: Expr, n: int) -> Expr:
    """Return e % n for n > 0: multiples of n leave, then inner remainders, then common factors."""
    if n == 1:
        return _SMALL[0]
    rest: dict[tuple[Atom, ...], int] = {}
    inner = _SMALL[0]
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
        return _modulo_int(_make(e.constant, rest) + inner, n)
    constant = (e.constant + inner.constant) % n
    if not rest:
        return const(constant)
    g = math.gcd(n, *rest.values())
    if g > 1:
        high, low = divmod(constant, g)
        scaled = _make(high, {m: c // g for m, c in rest.items()})
        return _scale(_pair("%", scaled, const(n // g)), g) + low
    return _pair("%", _make(constant, rest), const(n))


def _divide(e: Expr, by: Expr) -> tuple[Expr, Expr]:
    """Return e // by and e % by for a `by` with names; multiples of it leave the numerator."""
    whole, rest = split(e, by)
    if not rest.terms and not rest._const:
        return whole, rest
    return whole + _pair("//", rest, by), _pair("%", rest, by)


def split(e: Expr, by: Expr) -> tuple[Expr, Expr]:
    """Return (q, r) with e == q * by + r, where q takes every term that is a multiple of `by`."""
    if len(by.terms) == 1 and not by._const:
        ((mono, k),) = by._terms.items()
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
        return _make(base, whole), _make(e._const, rest)
    if not by.terms:
        pairs = {m: _cut(c, by._const) for m, c in e.terms.items()}
        q, r = divmod(e._const, by._const)
        return (
            _make(q, {m: p[0] for m, p in pairs.items() if p[0]}),
            _make(r, {m: p[1] for m, p in pairs.items() if p[1]}),
        )
    quotient, remainder = _SMALL[0], e
    for factor, c in collect(e).items():
        if c == by:
            part = _make(0, {factor: 1}) if factor else _SMALL[1]
            quotient, remainder = quotient + part, remainder - part * by
    return quotient, remainder


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
        part = _make(0, {without: c}) if without else const(c)
        groups[with_letters] = groups.get(with_letters, _SMALL[0]) + part
    if e._const:
        groups[()] = groups.get((), _SMALL[0]) + e._const
    return groups


def as_int(e: Expr) -> int | None:
    """Return the value of a constant expression, else None."""
    return None if e.terms else e._const
