"""The lazy tensors that lowering reads, and what a rule raises when it cannot write an element."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from typing import TYPE_CHECKING

from onnx_fusion.dtypes import DType
from onnx_fusion.program import expr as ex
from onnx_fusion.program import model as tp

if TYPE_CHECKING:
    from onnx_fusion.ops.stage import Stage

Index = ex.Expr | tp.Ref
Guard = None | str | float | int | bool
ANY: Guard = "any"
"""The guard of a branch not taken: what is read outside does not matter, but must not fail."""

_serial = itertools.count()


class NeedsTemp(Exception):
    """`tensor` must be stored by an earlier stage; `settled` if no other would do better."""

    def __init__(self, tensor: Tensor, settled: bool = False) -> None:
        self.tensor = tensor
        self.settled = settled


class Cut(Exception):
    """The root's `axis` had better be stored in parts, cut at these borders."""

    def __init__(self, axis: int, borders: tuple[int, ...]) -> None:
        self.axis = axis
        self.borders = borders


class Refused(Exception):
    """This node cannot be lowered here; the message is the reason."""


@dataclasses.dataclass(slots=True, eq=False)
class Tensor:
    """A value inside a region: `read(stage, index, guard)` writes its element at `index`.

    `guard` is None if the index is inside, ANY if it may be outside and then any value will do, or
    a literal that must be the value outside. `steps` counts instructions behind one element,
    `is_source` says that it is memory. `origin` is the tensor whose elements it has in other
    places, None if it computes them; `begins` says where it begins on each axis if it is a box of
    `origin`.
    """

    dtype: DType
    shape: tuple[ex.Expr, ...]
    read: Callable[[Stage, tuple[Index, ...], Guard], tp.Ref]
    steps: int = 0
    is_source: bool = False
    origin: Tensor | None = None
    begins: tuple[ex.Expr, ...] | None = None
    serial: int = dataclasses.field(default_factory=lambda: next(_serial))

    @property
    def rank(self) -> int:
        return len(self.shape)

    def at(self, stage: Stage, index: tuple[Index, ...], guard: Guard = None) -> tp.Ref:
        """Return the value of this tensor's element at `index`, written once per stage."""
        return stage.read(self, index, guard)

    def chosen_at(self, stage: Stage, index: tuple[Index, ...], guard: Guard) -> tp.Ref:
        """Return the value as `at` does, where it is one of several to choose from.

        What must be stored for that is all that was computed, not its beginnings: the rest would be
        computed for each of them.
        """
        before = len(stage.unclean)
        try:
            ref = stage.read(self, index, guard)
            need = NeedsTemp(self) if len(stage.unclean) > before else None
        except NeedsTemp as asked:
            ref, need = None, asked
        if need is None:
            return ref
        made = self
        while made.origin is not None:
            made = made.origin
        if need.settled or made is stage.root or made in stage.stored:
            raise need
        raise NeedsTemp(made, settled=True)


def is_one(extent: ex.Expr) -> bool:
    """Return whether an extent is known to be 1."""
    return ex.as_int(extent) == 1
