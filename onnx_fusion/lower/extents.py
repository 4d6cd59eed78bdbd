"""Which inputs of a program define its dims: by their shapes, or, shape tensors, by what they hold."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from onnx_fusion.graph.model import Value
from onnx_fusion.ops.stage import Tensor
from onnx_fusion.passes.elements import elements
from onnx_fusion.program import expr as ex

Binds = dict[Tensor, tuple[str, ...]]
"""The dims that the contents of inputs define (tile programs, section 3: `as`)."""


def named_dims(tensor: Tensor) -> set[str]:
    """Return the dims that a tensor's shape defines: extents that are a dim and no more."""
    return {d for e in tensor.shape for d in e.dims() if e == ex.dim(d)}


def held_dims(value: Value, symbols: Mapping[str, str], wanted: Collection[str]) -> list[str]:
    """Return for each element of a shape tensor the dim that it is, "" if none of those `wanted`."""
    held = None if value.weight is not None else elements(value)
    names = (symbols.get(dim, "") if isinstance(dim, str) else "" for dim in held or ())
    return [name if name in wanted else "" for name in names]


def in_order(used: Sequence[Tensor], binds: Binds) -> list[Tensor]:
    """Return the inputs so that each one's extents are made of dims that it or those before it define."""
    left, done, defined = list(used), [], set()
    while left:
        fit = (t for t in left if {d for e in t.shape for d in e.dims()} <= defined | named_dims(t))
        best = next(fit, left[0])
        left.remove(best)
        done.append(best)
        defined |= named_dims(best) | set(binds.get(best, ()))
    return done
