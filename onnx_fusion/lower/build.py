"""The stages that store one tensor: one, or several where the tensor is made of pieces.

    y = Relu(Concat(a, b))    stage n: N, c: A    load a (n, c) ... store y (n, c)
                              stage n: N, c: B    load b (n, c) ... store y (n, A + c)

So a Concat costs nothing: what computes a piece stores it where it belongs.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections import Counter
from collections.abc import Hashable, Iterator

from onnx_fusion.lower.split import find_cut, find_split
from onnx_fusion.ops.index import letters_in
from onnx_fusion.ops.stage import Stage
from onnx_fusion.ops.tensor import Cut, NeedsTemp, Refused, Tensor
from onnx_fusion.program import expr as ex
from onnx_fusion.program import model as tp

MAX_SPLITS = 12
MOST_PIECES = 64
MOST_DIVIDED = 8
"""Pieces beyond which no axis is cut only for a division to come out even."""
LEAST_AGAIN = 8
"""Times that an element is looked up, from which it is stored first."""
Cuts = dict[int, tuple[int, ...]]
"""Where axes of a tensor are cut."""
Ranges = dict[int, tuple[int, int]]
Box = tuple[tuple[int, int] | None, ...]
"""The first and last index of each axis, None where they are not known."""


@dataclasses.dataclass(frozen=True, slots=True)
class Built:
    """Stages, the outputs they stored on the way, and the tensors they met.

    Were one of these stored, the stages would be others. `owners` are the contractions computed,
    each with the box of it that is, and `contracted` the tensors met that are made of their
    results.
    """

    stages: tuple[tp.Stage, ...]
    taken: tuple[Tensor, ...]
    met: frozenset[Tensor]
    owners: dict[Tensor, Box]
    contracted: frozenset[Tensor]


def build(root: Tensor, name: str, stored: dict[Tensor, str], absorb: dict[Tensor, str]) -> Built:
    """Return the stages that store `root`; `stored` and `absorb` are as `Stage` has them."""
    cuts: Cuts = {}
    while (count := math.prod(len(borders) + 1 for borders in cuts.values())) <= MOST_PIECES:
        even = count < MOST_DIVIDED
        try:
            tried = [
                _write(root, name, stored, absorb, ranges, even) for ranges in _pieces(root, cuts)
            ]
        except Cut as cut:
            cuts[cut.axis] = tuple(sorted({*cuts.get(cut.axis, ()), *cut.borders}))
            continue
        if _repeats([stage for stage, _ in tried]):
            break
        made = _all_of(tried)
        for stage in made if cuts else ():
            if stage.dots and stage.absorbed.keys() - stage.partly:
                # A contraction that stores two tensors in two ways is no longer a matrix kernel's.
                raise NeedsTemp(min(stage.absorbed, key=lambda t: t.serial))
        return _join(made)
    return _join(_all_of([_write(root, name, stored, absorb, None)]))


def _pieces(root: Tensor, cuts: Cuts) -> Iterator[Ranges]:
    """Yield the parts of the tensor that the cuts leave, as ranges of the axes that are cut."""
    axes = sorted(cuts)
    runs = [itertools.pairwise((0, *cuts[axis], ex.as_int(root.shape[axis]))) for axis in axes]
    for ranges in itertools.product(*runs):
        yield dict(zip(axes, ranges, strict=True))


def _all_of(tried: list[tuple[Stage, NeedsTemp | None]]) -> list[Stage]:
    """Return the stages, or raise what the first of them asked for."""
    for _, need in tried:
        if need is not None:
            raise need
    return [stage for stage, _ in tried]


def _repeats(made: list[Stage]) -> bool:
    """Return whether a sum or the like would be computed, or set up, for each piece anew."""
    owners = Counter(o for s in made for o in {o for o, *_ in (*s.dots, *s.reductions)})
    return any(count > 1 for count in owners.values())


def _join(made: list[Stage]) -> Built:
    """Return the stages of all pieces; a tensor stored on the way must be stored once and whole."""
    times = Counter(tensor for stage in made for tensor in stage.absorbed)
    for tensor, count in times.items():
        if count != (len(made) if any(tensor in stage.partly for stage in made) else 1):
            raise NeedsTemp(tensor)
    stages = (
        tp.Stage(tuple((n, e) for n, e in stage.extents.items()), tuple(stage.body))
        for stage in made
    )
    met = frozenset(key[0] for stage in made for key in stage.memo)
    owners: dict[Tensor, Box] = {}
    for stage in made:
        for owner, *_ in stage.dots:
            owners[owner] = () if owner in owners else _box(stage, owner)
    contracted = frozenset(
        key[0] for stage in made for key, ref in stage.memo.items() if stage.contracted(ref)
    )
    return Built(tuple(stages), tuple(times), met, owners, contracted)


def _write(
    root: Tensor, name: str, stored: dict[Tensor, str], absorb: dict[Tensor, str],
    ranges: Ranges | None, even: bool = False,
) -> tuple[Stage, NeedsTemp | None]:  # fmt: skip
    """Return the stage that stores `root`, or these ranges of it, and what to store before.

    With `even`, Cut is raised where divisions then come out even, too.
    """
    splits: dict[Hashable, tuple[ex.Expr, ...]] = {}
    for _ in range(MAX_SPLITS):
        stage = Stage(stored, splits, absorb, root, ranges)
        index = tuple(stage.root_axis(k) for k in range(root.rank))
        need: NeedsTemp | None = None
        try:
            value = stage.read(root, index, None)
            stage.store(name, index, value)
        except NeedsTemp as asked:
            need = asked
        found = find_split(stage)
        if found is not None:
            key, factors = found
            splits[key] = factors
            continue
        cut = find_cut(stage) if even else None
        if cut is not None:
            raise cut
        return stage, need or _check_form(stage) or _check_lookups(stage)
    raise Refused("index maps that do not split into letters")


def _box(stage: Stage, owner: Tensor) -> Box:
    """Return the part of `owner` that a stage reads."""
    read = [index for tensor, index, _ in stage.memo if tensor is owner]
    return tuple(map(stage.bounds, read[0])) if len(read) == 1 else ()


def apart(one: Box, other: Box) -> bool:
    """Return whether two boxes are known to have no element in common."""
    return any(
        a is not None and b is not None and (a[1] < b[0] or b[1] < a[0])
        for a, b in zip(one, other, strict=False)
    )


def _finished(stage: Stage, owner: Tensor) -> Tensor:
    """Return what is computed last from an inner sum or contraction alone, or itself.

    So its epilogue, or the rest of a normalization, is computed once and with it.
    """
    dots = {t: kept for t, kept, _ in stage.dots}
    best = owner
    for (tensor, _, _), ref in stage.memo.items():
        made = tensor
        while made.origin is not None:
            made = made.origin
        summed = stage.summed(ref)
        alone = summed == {owner} if owner in dots else not summed & dots.keys()
        if owner not in summed or not alone or made is stage.root or made.serial <= best.serial:
            continue
        if stage.letters_of(ref) == dots.get(owner, stage.letters_of(ref)):
            best = made
    return best


def _check_lookups(stage: Stage) -> NeedsTemp | None:
    """Return what is looked up for few elements and would be looked up again for each of many, if
    anything: a padding mask, gathered for each key and wanted for each pair of query and key."""
    found: Tensor | None = None
    if stage.dots or stage.reductions:
        return None
    for (tensor, index, guard), ref in stage.memo.items():
        letters = stage.letters_of(ref)
        if guard is not None or tensor is stage.root or not stage.looked_up(ref):
            continue
        if tensor in stage.stored or letters != letters_in(index):
            continue
        others = [ex.as_int(e) for name, e in stage.extents.items() if name not in letters]
        if None in others or math.prod(others) < LEAST_AGAIN:
            continue
        if not stage.covers(index, tensor.shape):
            continue
        if found is None or tensor.serial > found.serial:
            found = tensor
    return found and NeedsTemp(found)


def _check_form(stage: Stage) -> NeedsTemp | None:
    """Return what to store first for the stage to be of a form that machines run (section 8)."""
    if stage.unclean:
        return NeedsTemp(stage.unclean[0])
    dots, reductions = stage.dots, stage.reductions
    for tensor, index in stage.absorbed.items() if dots else ():
        if not stage.contracted(stage.memo[tensor, index, None]):
            return NeedsTemp(tensor)
    inner = [owner for owner, *_ in (*dots, *reductions) if owner is not stage.root]
    if len(dots) > 1 or (dots and reductions) or len({r for *_, r in reductions}) > 1:
        return NeedsTemp(_finished(stage, min(inner, key=lambda t: t.serial)))
    for owner, kept, reduced in (*dots, *reductions):
        # What other letters repeat would be summed anew for each of their values.
        if owner is not stage.root and set(stage.extents) - reduced - kept:
            return NeedsTemp(_finished(stage, owner))
    return None
