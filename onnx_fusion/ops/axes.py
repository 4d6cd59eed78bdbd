"""The letters of a stage of a tile program, and which elements index maps over them reach."""

from __future__ import annotations

from collections.abc import Hashable, Mapping

from onnx_fusion.ops.index import linear
from onnx_fusion.ops.tensor import Index, is_one
from onnx_fusion.program import expr as ex
from onnx_fusion.program import model as tp


class Axes:
    """Axes that letters run over, by a key: an axis of the tensor that is stored, or anything else.

    `splits` gives, for an axis' key, the extents its letter is split into. `extents` has each
    letter's, `owner` its axis and its place among the letters of that.
    """

    def __init__(self, splits: Mapping[Hashable, tuple[ex.Expr, ...]]) -> None:
        self.splits = splits
        self.extents: dict[str, ex.Expr] = {}
        self.owner: dict[str, tuple[Hashable, int]] = {}
        self._axes: list[tuple[Hashable, ex.Expr, tuple[ex.Expr, tuple[str, ...]]]] = []

    def axis(
        self, key: Hashable, extent: ex.Expr, reuse: frozenset[str] | None = None
    ) -> tuple[ex.Expr, tuple[str, ...]]:
        """Return the index that runs over `extent`, and its letters.

        With `reuse`, an axis of equal extent whose letters are not in that set is used again: this
        is what lets a row be read, reduced and read again over one letter.
        """
        if is_one(extent):
            return ex.const(0), ()
        for known, _, made in self._axes:
            if known == key:
                return made
        for _, size, made in self._axes if reuse is not None else ():
            if size == extent and not reuse.intersection(made[1]):
                return made
        factors = self.splits.get(key, (extent,))
        prefix = "i" if isinstance(key, int) else "r"
        base = sum(1 for k, _, _ in self._axes if isinstance(k, int) == isinstance(key, int))
        names = []
        index: ex.Expr = ex.const(0)
        for position, factor in enumerate(factors):
            name = f"{prefix}{base}" + ("abcdefghijklmnop"[position] if len(factors) > 1 else "")
            self.extents[name] = factor
            self.owner[name] = (key, position)
            names.append(name)
            index = index * factor + ex.letter(name)
        made = (index, tuple(names))
        self._axes.append((key, extent, made))
        return made

    def simplify(self, index: ex.Expr) -> ex.Expr:
        """Return `index` with the ranges of this stage's letters used."""
        return ex.simplify(index, self.extents)

    def span(self, index: ex.Expr) -> tuple[int, int, int] | None:
        """Return the axis of the root that an index is, but for a shift, its first and its end."""
        for key, extent, (made, _) in self._axes:
            begin, size = ex.as_int(self.simplify(index - made)), ex.as_int(extent)
            if isinstance(key, int) and begin is not None and size is not None:
                return key, begin, begin + size
        begin = ex.as_int(index)
        return None if begin is None else (-1, begin, begin + 1)

    def bounds(self, index: Index) -> tuple[int, int] | None:
        """Return the least and the greatest value of an index, None if they are not known."""
        parts = None if isinstance(index, tp.Ref) else linear(index)
        if parts is None:
            return None
        low = high = ex.as_int(parts[0])
        for letter, coefficient in parts[1].items():
            extent, factor = ex.as_int(self.extents[letter]), ex.as_int(coefficient)
            if low is None or not extent or factor is None:
                return None
            ends = (0, factor * (extent - 1))
            low, high = low + min(ends), high + max(ends)
        return None if low is None else (low, high)

    def covers(self, index: tuple[Index, ...], shape: tuple[ex.Expr, ...]) -> bool:
        """Return whether `index` runs over every element of `shape` exactly once."""
        seen: set[str] = set()
        for entry, extent in zip(index, shape, strict=True):
            if isinstance(entry, tp.Ref):
                return False
            digits = linear(entry)
            if digits is None:
                return False
            offset, terms = digits
            if ex.as_int(offset) != 0 or seen.intersection(terms):
                return False
            seen.update(terms)
            radix: ex.Expr = ex.const(1)
            left = dict(terms)
            while left:
                letter = next((name for name, c in left.items() if c == radix), None)
                if letter is None:
                    return False
                del left[letter]
                radix = radix * self.extents[letter]
            if radix != extent:
                return False
        return True
