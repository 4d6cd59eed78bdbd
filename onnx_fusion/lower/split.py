"""Splitting letters so that index maps need no division.

Reading [S, 768] as [S, 12, 64] makes maps of j // 64 and j % 64. With j = 64 * h + d as two letters
both are letters again, and every map is affine. Where 64 does not divide the extent (a Slice behind
the Reshape), the axis is cut: most of it is a multiple of 64, and over the rest j // 64 is a
number.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator

from onnx_fusion.ops.stage import Stage
from onnx_fusion.ops.tensor import Cut, is_one
from onnx_fusion.program import expr as ex
from onnx_fusion.program.algebra import Atom


def find_split(stage: Stage) -> tuple[Hashable, tuple[ex.Expr, ...]] | None:
    """Return the first axis that a map divides evenly, and the extents to split it into.

    None if no map divides a letter by a divisor of its extent.
    """
    for index in stage.maps:
        for atom in divisions(index):
            name = bare_letter(atom.left)
            if name is None or name not in stage.extents:
                continue
            extent, by = stage.extents[name], atom.right
            quotient = ex.simplify(extent // by, {})
            if quotient * by != extent or is_one(quotient) or is_one(by):
                continue
            key, position = stage.owner[name]
            old = [stage.extents[n] for n, (k, _) in stage.owner.items() if k == key]
            return key, (*old[:position], quotient, by, *old[position + 1 :])
    return None


def find_cut(stage: Stage) -> Cut | None:
    """Return where to cut an axis of the root for what a map divides to lie in whole periods.

    None if no map divides an axis by less than its extent.
    """
    for index in stage.maps:
        for atom in divisions(index):
            offset, by = atom.left.constant, ex.as_int(atom.right)
            name = bare_letter(atom.left - offset)
            if by is None or by < 2 or name not in stage.extents:
                continue
            key, _ = stage.owner[name]
            extent = ex.as_int(stage.extents[name])
            whole = [n for n, (k, _) in stage.owner.items() if k == key] == [name]
            if not isinstance(key, int) or extent is None or not whole:
                continue
            begin, end = -offset % by, extent - (extent + offset) % by
            borders = tuple(b for b in sorted({begin, end}) if 0 < b < extent)
            if borders:
                first = stage.ranges.get(key, (0, 0))[0] if stage.ranges else 0
                return Cut(key, tuple(first + b for b in borders))
    return None


def divisions(index: ex.Expr) -> Iterator[Atom]:
    """Yield the `//` and `%` of an expression, inner ones first."""
    for factors in index.terms:
        for atom in factors:
            if atom.kind in ("dim", "letter"):
                continue
            yield from divisions(atom.left)
            if atom.right is not None:
                yield from divisions(atom.right)
            if atom.kind in ("//", "%"):
                yield atom


def bare_letter(index: ex.Expr) -> str | None:
    """Return the name of a letter that stands alone."""
    if index.constant or len(index.terms) != 1:
        return None
    ((factors, coefficient),) = index.terms.items()
    if coefficient != 1 or len(factors) != 1 or factors[0].kind != "letter":
        return None
    return factors[0].left
