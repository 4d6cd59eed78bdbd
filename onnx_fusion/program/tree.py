"""Syntax trees of expressions: their text, and the tree that stands for a normal form."""

from __future__ import annotations

from collections.abc import Mapping

Tree = tuple
"""("int", n), ("dim", name), ("letter", name), ("neg", t), (op, t, t) with + - * // % min max."""

Monomial = tuple
"""Atoms, as `algebra` defines them; only their `tree()`, `text` and `lettered` are used here."""

MAX_INT = 1 << 40
"""The largest number that a text may hold."""

_RANK = {"+": 1, "-": 1, "*": 2, "//": 2, "%": 2, "neg": 3}


def show(tree: Tree) -> str:
    """Return the text of a tree, with the fewest parentheses that read back as the same tree."""
    kind = tree[0]
    if kind in ("int", "dim", "letter"):
        return str(tree[1])
    if kind == "neg":
        return "-" + _wrap(tree[1], 3)
    if kind in ("min", "max"):
        return f"{kind}({show(tree[1])}, {show(tree[2])})"
    rank = _RANK[kind]
    return f"{_wrap(tree[1], rank)} {kind} {_wrap(tree[2], rank + 1)}"


def _wrap(tree: Tree, rank: int) -> str:
    text = show(tree)
    return text if _RANK.get(tree[0], 4) >= rank else f"({text})"


def has_letters(tree: Tree) -> bool:
    """Return whether a letter is written in the tree."""
    if tree[0] == "letter":
        return True
    return not isinstance(tree[1], (int, str)) and any(map(has_letters, tree[1:]))


def derive(constant: int, terms: Mapping[Monomial, int]) -> Tree:
    """Return the tree of a normal form: `64 * h + d`, `(N - 1) * i + 1`, `N - 1`.

    Terms with letters come first, each letter once with its whole coefficient, so that a sum of
    letters times constants is written as stores need it.
    """
    groups: dict[Monomial, dict[Monomial, int]] = {}
    for mono, c in terms.items():
        letters = tuple(a for a in mono if a.lettered)
        groups.setdefault(letters, {})[tuple(a for a in mono if not a.lettered)] = c
    free = groups.pop((), {})
    signed: list[tuple[bool, Tree]] = []
    for letters, coefficient in sorted(groups.items(), key=_group_order):
        if len(coefficient) == 1:
            ((dims, c),) = coefficient.items()
            signed.append((c < 0, _product(abs(c), dims + letters)))
        else:
            base = coefficient.pop((), 0)
            signed.append((False, _chain(derive(base, coefficient), letters)))
    for mono, c in sorted(free.items(), key=_term_order):
        signed.append((c < 0, _product(abs(c), mono)))
    if constant or not signed:
        signed.append((constant < 0, _number(abs(constant))))
    first = next((k for k, (negative, _) in enumerate(signed) if not negative), 0)
    negative, tree = signed.pop(first)
    if negative:
        tree = _negate(tree)
    for negative, part in signed:
        tree = ("-" if negative else "+", tree, part)
    return tree


def _group_order(item: tuple[Monomial, dict[Monomial, int]]) -> tuple:
    letters, coefficient = item
    degree = max(map(len, coefficient))
    return -degree, -max(map(abs, coefficient.values())), [a.text for a in letters]


def _term_order(item: tuple[Monomial, int]) -> tuple:
    return -len(item[0]), -abs(item[1]), [a.text for a in item[0]]


def _product(n: int, factors: Monomial) -> Tree:
    if n != 1:
        return _chain(_number(n), factors)
    return _chain(factors[0].tree(), factors[1:])


def _chain(tree: Tree, factors: Monomial) -> Tree:
    for atom in factors:
        tree = ("*", tree, atom.tree())
    return tree


def _number(n: int) -> Tree:
    if n <= MAX_INT:
        return ("int", n)
    high, low = divmod(n, MAX_INT)
    tree = ("*", _number(high), ("int", MAX_INT))
    return ("+", tree, ("int", low)) if low else tree


def _negate(tree: Tree) -> Tree:
    """Return the tree of a product with its first factor negated."""
    return ("*", _negate(tree[1]), tree[2]) if tree[0] == "*" else ("neg", tree)
