"""Integer expressions over dims and letters, held as polynomials with a unique normal form.

An `Expr` is a constant plus integer multiples of monomials. A monomial is a sorted tuple of atoms;
an atom is a dim, a letter, or a `//`, `%`, `min` or `max` of two expressions. Atoms are interned,
so two expressions are equal exactly if their constants and terms are. Every expression also has a
syntax tree, what its text reads back as: one derived from the normal form, or, for an expression
that was read from text, the text's own, since the rules of a program are about its text.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable

from onnx_fusion.program import division
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
        return make(0, {(self,): 1})


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
            return self if other == 0 else make(self.constant + other, self.terms)
        other = _lift(other)
        if other is None:
            return NotImplemented
        ours, theirs = self.terms, other.terms
        if not theirs:
            return make(self._const + other._const, ours)
        if not ours:
            return make(self._const + other._const, theirs)
        terms = dict(ours)
        for mono, c in theirs.items():
            c += terms.get(mono, 0)
            if c:
                terms[mono] = c
            else:
                del terms[mono]
        return make(self._const + other._const, terms)

    def __neg__(self) -> Expr:
        return make(-self.constant, {m: -c for m, c in self.terms.items()})

    def __sub__(self, other: Expr | int) -> Expr:
        if other.__class__ is int:
            return self + -other
        other = _lift(other)
        return NotImplemented if other is None else self + -other

    def __rsub__(self, other: int) -> Expr:
        return -self + other

    def __mul__(self, other: Expr | int) -> Expr:
        if other.__class__ is int:
            return scale(self, other)
        other = _lift(other)
        if other is None:
            return NotImplemented
        if not other.terms:
            return scale(self, other._const)
        if not self.terms:
            return scale(other, self._const)
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
        return make(total, {m: c for m, c in terms.items() if c})

    __radd__ = __add__
    __rmul__ = __mul__

    def __floordiv__(self, other: Expr | int) -> Expr:
        other = _lift(other)
        return NotImplemented if other is None else division.quotient(self, other)

    def __rfloordiv__(self, other: int) -> Expr:
        return const(other) // self

    def __mod__(self, other: Expr | int) -> Expr:
        other = _lift(other)
        return NotImplemented if other is None else division.remainder(self, other)

    def __rmod__(self, other: int) -> Expr:
        return const(other) % self


def make(
    constant: int, terms: dict[tuple[Atom, ...], int] | None, tree: Tree | None = None
) -> Expr:
    """Return the expression with this constant and these terms, none of them 0."""
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
_SMALL = [make(n, {}) for n in range(1025)]


def _intern(kind: str, left: Expr | str, right: Expr | None = None) -> Atom:
    key = (kind, left, right)
    atom = _ATOMS.get(key)
    return atom if atom is not None else _ATOMS.setdefault(key, Atom(kind, left, right))


def const(n: int) -> Expr:
    """Return the expression that is always n."""
    return _SMALL[n] if 0 <= n <= 1024 else make(int(n), {})


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
    e = make(0, None, tree)
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


def pair(kind: str, left: Expr, right: Expr) -> Expr:
    """Return the atom of two expressions, as an expression."""
    return _intern(kind, left, right).expr()


def _choose(kind: str, a: Expr, b: Expr) -> Expr:
    gap = a - b
    if not gap.terms:
        return a if (gap._const <= 0) == (kind == "min") else b
    if str(b) < str(a):
        a, b = b, a
    return pair(kind, a, b)


def scale(e: Expr, n: int) -> Expr:
    """Return e * n."""
    if n == 1:
        return e
    if n == 0:
        return _SMALL[0]
    return make(e.constant * n, {m: c * n for m, c in e.terms.items()})


def _seal(e: Expr) -> Expr:
    """Return the sum `e` as one atom, so that a product with it is not multiplied out."""
    return e if _count(e) == 1 else pair("sum", e, None)


def _count(e: Expr) -> int:
    return len(e._terms) + (e._const != 0)


def _size(e: Expr) -> int:
    return sum(len(a.text) for m in e._terms for a in m)


def as_int(e: Expr) -> int | None:
    """Return the value of a constant expression, else None."""
    return None if e.terms else e._const
