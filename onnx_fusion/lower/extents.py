"""Which inputs of a program define its dims: by their shapes, or, shape tensors, by what they
hold."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from onnx_fusion.graph.model import Dim, Node, Value
from onnx_fusion.ops.tensor import Tensor
from onnx_fusion.passes.elements import elements
from onnx_fusion.program import expr as ex

Binds = dict[Tensor, tuple[str, ...]]
"""The dims that the contents of inputs define (tile programs, section 3: `as`)."""
Multiples = dict[str, ex.Expr]
"""For dims that no input has for an extent, the multiple of it that one has."""


def made_dims(nodes: Iterable[Node]) -> set[Dim]:
    """Return the extents of the nodes' outputs."""
    made = (value for node in nodes for value in node.outputs if value is not None)
    return {dim for value in made for dim in value.shape or ()}


def named_dims(tensor: Tensor) -> set[str]:
    """Return the dims that a tensor's shape defines: extents that are a dim and no more."""
    return {d for e in tensor.shape for d in e.dims() if e == ex.dim(d)}


def held_dims(value: Value, symbols: Mapping[str, str], wanted: Collection[str]) -> list[str]:
    """Return for each element of a shape tensor the dim that it is, "" if none of those
    `wanted`."""
    held = None if value.weight is not None else elements(value)
    names = (symbols.get(dim, "") if isinstance(dim, str) else "" for dim in held or ())
    return [name if name in wanted else "" for name in names]


def is_made(value: Value, extents: Collection[Dim]) -> bool:
    """Return whether a portable function makes a shape tensor from these extents
    (emit/supply.py)."""
    held = elements(value) if value.weight is None else None
    symbols = [dim for dim in held or () if not isinstance(dim, int)]
    return bool(symbols) and set(symbols) <= set(extents)


def agree(shape: tuple[ex.Expr, ...], inferred: tuple[Dim, ...] | None) -> bool:
    """Return whether an output's shape can be the one that inference found."""
    if inferred is None:
        return True
    known = [ex.as_int(extent) for extent in shape]
    return len(shape) == len(inferred) and all(
        a is None or isinstance(b, str) or a == b for a, b in zip(known, inferred, strict=True)
    )


def in_order(used: Sequence[Tensor], binds: Binds, multiples: Multiples) -> list[Tensor]:
    """Return the inputs so that each one's extents are made of dims that it or those before it
    define."""

    def given(tensor: Tensor) -> set[str]:
        return named_dims(tensor) | {d for d, e in multiples.items() if e in tensor.shape}

    left, done, defined = list(used), [], set()
    while left:
        fit = (t for t in left if {d for e in t.shape for d in e.dims()} <= defined | given(t))
        best = next(fit, left[0])
        left.remove(best)
        done.append(best)
        defined |= given(best) | set(binds.get(best, ()))
    return done


def find_multiples(used: Iterable[Tensor], wanted: Collection[str]) -> Multiples:
    """Return for dims of which a tensor has a multiple for extent, 12 * D, that extent."""
    found: Multiples = {}
    for extent in (e for t in used for e in t.shape):
        if len(extent.terms) == 1 and not extent.constant:
            ((atoms, factor),) = extent.terms.items()
            if factor > 1 and len(atoms) == 1 and atoms[0].left in wanted:
                found.setdefault(atoms[0].left, extent)
    return found


def divide(multiples: Multiples) -> tuple[dict[ex.Expr, ex.Expr], dict[str, ex.Expr]]:
    """Return the dims that stand in inputs for the multiples, and what the divided dims are of
    those.

    `12 * D` becomes `W`, and D is `W // 12 // (1 - W % 12)`, which has no value, and stops the run,
    unless 12 divides W.
    """
    whole = {e: ex.dim(f"W{k}") for k, e in enumerate(multiples.values())}
    quotients = {}
    for name, extent in multiples.items():
        (factor,) = extent.terms.values()
        quotients[name] = whole[extent] // factor // (1 - whole[extent] % factor)
    return whole, quotients
