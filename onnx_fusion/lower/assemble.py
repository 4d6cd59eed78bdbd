"""Chooses which tensors of a region are stored, and writes the stages that do so.

    outputs and temps, last first --> one stage each, at its own letters
                                       |  an output met on the way whose elements are all passed
                                       |  is stored there
                                       |  a letter met as i // 64 and i % 64 is split into two, and
                                       |  the stage redone
                                       |  a tensor that would be computed twice becomes a temp, and
                                       |  all is redone
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from onnx_fusion.lower.build import Built, apart, build
from onnx_fusion.ops.tensor import NeedsTemp, Refused, Tensor
from onnx_fusion.program import expr as ex
from onnx_fusion.program import model as tp

MOST_PARTS = 4
"""Stages that may each compute a part of one contraction, such as the three of a QKV projection."""


def assemble(
    roots: list[Tensor], sources: Collection[Tensor]
) -> tuple[list[tp.Stage], dict[Tensor, str]]:
    """Return the stages that store `roots`, in order, and the temps they need.

    `sources` are what memory holds already, called as `source_name` says; the roots are y0, y1 and
    so on, the temps t0. Raises `Refused` if some index map cannot be read from memory.
    """
    forced: dict[Tensor, None] = {}
    built: dict[Tensor, Built] = {}
    for _ in range(64):
        try:
            stages = _attempt(roots, sources, list(forced), built)
        except NeedsTemp as need:
            if need.tensor in sources or need.tensor in forced:
                raise Refused("an index map that memory cannot answer") from None
            forced[need.tensor] = None
            for root in [r for r, one in built.items() if need.tensor in one.met]:
                del built[root]
            continue
        temps = [t for t in sorted(forced, key=lambda t: t.serial) if t not in roots]
        names = {_temp_name(t): f"t{k}" for k, t in enumerate(temps)}
        same = lambda e: e  # noqa: E731
        stages = [rename(stage, names, same) for stage in stages] if names else stages
        return stages, {t: f"t{k}" for k, t in enumerate(temps)}
    raise Refused("too many intermediate tensors")


def source_name(tensor: Tensor) -> str:
    """Return what stages call a tensor that memory holds."""
    return f"s{tensor.serial}"


def _temp_name(tensor: Tensor) -> str:
    return f"u{tensor.serial}"


def _attempt(
    roots: list[Tensor],
    sources: Collection[Tensor],
    forced: list[Tensor],
    built: dict[Tensor, Built],
) -> list[tp.Stage]:
    """Return the stages if no further tensor needs to be stored; those in `built` hold already."""
    outputs = {t: f"y{k}" for k, t in enumerate(roots)}
    names = {**{t: _temp_name(t) for t in forced}, **outputs}
    memory = {t: source_name(t) for t in sources}
    memory.update({t: names[t] for t in forced})
    absorbed: set[Tensor] = set()
    summed: dict[Tensor, list[Built]] = {}
    stages: list[tuple[int, tp.Stage]] = []
    for root in sorted(names, key=lambda t: -t.serial):
        if root in absorbed:
            continue
        one = built.get(root)
        if one is None:
            stored = {t: n for t, n in memory.items() if t is not root}
            free = {t: n for t, n in outputs.items() if t not in memory and t is not root}
            one = built[root] = build(root, names[root], stored, free)
        twice = absorbed.intersection(one.taken)
        if twice:
            raise NeedsTemp(min(twice, key=lambda t: t.serial))
        absorbed.update(one.taken)
        for owner in sorted(one.owners.keys() & summed.keys(), key=lambda t: t.serial):
            others = summed[owner]
            parts = all(apart(one.owners[owner], other.owners[owner]) for other in others)
            if parts and len(others) < MOST_PARTS:
                continue
            # What two stages would compute is stored as late as both have use for it.
            raise NeedsTemp(max(one.contracted & others[0].contracted, key=lambda t: t.serial))
        for owner in one.owners:
            summed.setdefault(owner, []).append(one)
        stages += [(root.serial, stage) for stage in one.stages]
    return [stage for _, stage in sorted(stages, key=lambda s: s[0])]


def rename(
    stage: tp.Stage, tensors: dict[str, str], again: Callable[[ex.Expr], ex.Expr]
) -> tp.Stage:
    """Return the stage with tensors and dims renamed."""

    def index(entries: tuple) -> tuple:
        return tuple(again(e) if isinstance(e, ex.Expr) else e for e in entries)

    def line(entry: tp.Instruction | tp.Store) -> tp.Instruction | tp.Store:
        match entry:
            case tp.Load(tensor, at, fill):
                return tp.Load(tensors.get(tensor, tensor), index(at), fill)
            case tp.Index(value):
                return tp.Index(again(value))
            case tp.Select(conds, a, b):
                return tp.Select(
                    tuple(tp.Cond(again(c.left), c.op, again(c.right)) for c in conds), a, b
                )
            case tp.Store(tensor, at, value):
                return tp.Store(tensors.get(tensor, tensor), index(at), value)
        return entry

    letters = tuple((name, again(extent)) for name, extent in stage.letters)
    return tp.Stage(letters, tuple(map(line, stage.body)))
