"""Lowering: a region of nodes becomes one tile program.

Every value of the region becomes a lazy `Tensor` (ops/stage.py). Writing the program means choosing
which of them are stored (lower/assemble.py): the region's outputs always, and those a stage asked
for (`NeedsTemp`).
"""

from __future__ import annotations

import bisect
import dataclasses
import functools
import itertools
import operator
import sys
from collections.abc import Iterable

from onnx_fusion.dtypes import HALVES, DType
from onnx_fusion.errors import ProgramError
from onnx_fusion.fusion.plan import Region
from onnx_fusion.graph.model import Dim, Graph, Node, Value
from onnx_fusion.lower.assemble import assemble, rename, source_name
from onnx_fusion.lower.extents import (
    Binds,
    Multiples,
    agree,
    divide,
    find_multiples,
    held_dims,
    in_order,
    is_made,
    made_dims,
    named_dims,
)  # fmt: skip
from onnx_fusion.lower.halves import narrow, widen
from onnx_fusion.lower.lowered import NO_LAYOUTS, Layouts, Lowered
from onnx_fusion.ops import table
from onnx_fusion.ops.movement import filled
from onnx_fusion.ops.row import Site
from onnx_fusion.ops.stage import Stage
from onnx_fusion.ops.tensor import NeedsTemp, Refused, Tensor
from onnx_fusion.passes.elements import elements
from onnx_fusion.program import expr as ex
from onnx_fusion.program import model as tp
from onnx_fusion.program.text import print_program
from onnx_fusion.program.verify import verify

MAX_INPUTS = 64
MAX_INLINE = 4096
"""Constants up to this many bytes may be written into a program or a portable function."""
DEEPEST = 20_000
"""Calls inside each other while a region is lowered."""


def lower(
    region: Region,
    graph: Graph,
    *,
    strict: bool = False,
    layouts: Layouts = NO_LAYOUTS,
    halves: bool = False,
) -> Lowered:
    """Return the region's tile program.

    Inputs, outputs and temps that are values in `layouts` have that order of dims in memory. With
    `halves` arithmetic on f16 and bf16 is done in f32, and rounded where it leaves. Raises
    `Refused` with the reason if there is none: an element type without instructions, a shape that
    depends on data, extents whose equality is not known, more inputs than `MAX_INPUTS`.
    """
    draft = _Draft(graph, layouts, made_dims(region.nodes), region.outputs if halves else None)
    for node in region.nodes:
        draft.add(node)
    roots = [draft.roots.get(v) or draft.tensors[v] for v in region.outputs]
    if len(set(roots)) != len(roots):
        raise Refused("two outputs are the same value")
    before = sys.getrecursionlimit()
    try:
        # Reading a chain's last value reads all before it, each a few calls deep.
        sys.setrecursionlimit(max(before, DEEPEST))
        stages, temps = assemble(roots, draft.sources)
    except RecursionError:
        raise Refused("too many operators in a row") from None
    finally:
        sys.setrecursionlimit(before)
    return draft.finish(region, roots, temps, stages, strict)


class _Draft:
    """The lazy tensors of a region, and the inputs found so far; with `outputs`, those that are of
    a half type are rounded to it in `roots`, and `tensors` has none."""

    def __init__(
        self, graph: Graph, layouts: Layouts, made: set[Dim], outputs: tuple[Value, ...] | None
    ) -> None:
        self.graph = graph
        self.layouts = layouts
        self.made = made
        self.outputs = outputs
        self.roots: dict[Value, Tensor] = {}
        self.memory: dict[Value, Tensor] = {}
        self.tensors: dict[Value, Tensor] = {}
        self.sources: dict[Tensor, Value] = {}
        self.symbols: dict[str, str] = {}

    def add(self, node: Node) -> None:
        """Give the node's outputs their tensors."""
        row = table.find(node)
        if row.lower is None:
            raise Refused(row.reason or f"{node.op_type} is opaque")
        for value in node.outputs:
            self.name_extents(node, value)
        inputs = tuple(None if v is None else self.tensor(v) for v in node.inputs)
        given = tuple(None if v is None else self.known(v) for v in node.outputs)
        domain = "" if node.domain == "ai.onnx" else node.domain
        site = Site(node, inputs, self.graph.opsets.get(domain, 1), given)
        try:
            made = row.lower(site)
        except (IndexError, TypeError, ValueError, ZeroDivisionError) as error:
            raise Refused(f"{node.op_type} is not valid here ({error})") from error
        for position, value in enumerate(node.outputs):
            if value is None:
                continue
            if position >= len(made) or made[position] is None:
                raise Refused(f"{node.op_type}: output {position} is not supported")
            if not agree(made[position].shape, value.shape):
                raise Refused(f"its shape is not the one that was inferred, {list(value.shape)}")
            self.tensors[value] = self.widened(value, made[position])

    def widened(self, value: Value, tensor: Tensor) -> Tensor:
        """Return a result as other nodes see it."""
        if self.outputs is None or value.dtype not in HALVES:
            return tensor
        if value in self.outputs:
            tensor = self.roots[value] = narrow(tensor, value.dtype)
        return widen(tensor)

    def tensor(self, value: Value) -> Tensor:
        """Return a value's tensor; one from outside the region is read from memory."""
        tensor = self.tensors.get(value)
        if tensor is None:
            tensor = self.literal(value) or self.source(value)
            tensor = tensor if self.outputs is None else widen(tensor)
            self.tensors[value] = tensor
        return tensor

    def literal(self, value: Value) -> Tensor | None:
        """Return a constant of one element as a literal of the program."""
        weight = value.weight
        if weight is None or weight.dtype is None or weight.dtype is DType.BF16:
            return None
        if any(d != 1 for d in weight.shape):
            return None
        number = weight.array().reshape(()).item()
        shape = tuple(ex.const(1) for _ in weight.shape)
        return filled(weight.dtype, shape, number)

    def source(self, value: Value) -> Tensor:
        """Return a tensor that is read from one of the node's inputs."""
        if value.dtype is None:
            raise Refused(f"'{value.name}' has an element type that programs do not have")
        if value.shape is None:
            raise Refused(f"the rank of '{value.name}' is not known")
        shape = tuple(self.extent(d) for d in value.shape)

        def read(stage: Stage, index: tuple, guard: object) -> tp.Ref:
            raise NeedsTemp(tensor)

        tensor = Tensor(value.dtype, shape, read, 0, True)
        self.sources[tensor] = value
        self.memory[value] = tensor
        return tensor

    def extent(self, dim: Dim) -> ex.Expr:
        """Return a dim as an expression: a name of its own, or a product of what values here
        have."""
        if isinstance(dim, int):
            return ex.const(dim)
        factors = self.graph.products.get(dim)
        if factors and all(
            isinstance(f, int) or f in self.made or f in self.symbols for f in factors
        ):
            return functools.reduce(operator.mul, map(self.extent, factors))
        return ex.dim(self.symbols.setdefault(dim, f"D{len(self.symbols)}"))

    def name_extents(self, node: Node, value: Value | None) -> None:
        """Name the output's extents that a shape tensor gives: an input of the region may hold
        it."""
        for dim in (value and value.shape) or ():
            unnamed = isinstance(dim, str) and dim not in self.symbols
            if unnamed and any(dim in (elements(v) or ()) for v in node.inputs):
                self.extent(dim)

    def known(self, value: Value) -> tuple[ex.Expr, ...] | None:
        """Return a value's inferred shape, None if it has extents that no input gives."""
        if value.shape is None:
            return None
        new = [d for d in value.shape if isinstance(d, str) and d not in self.symbols]
        factors = itertools.chain(*(self.graph.products.get(d, (d,)) for d in new))
        if any(isinstance(f, str) and f not in self.symbols for f in factors):
            return None
        return tuple(self.extent(d) for d in value.shape)

    def temp_orders(self, temps: Iterable[Tensor]) -> dict[Tensor, tuple[int, ...] | None]:
        """Return the temps' orders: a value's own, or that of the operator's result it leads to."""
        results = sorted((t.serial, self.layouts.get(v, ())) for v, t in self.tensors.items())
        serials = [serial for serial, _ in results]
        found = {}
        for temp in temps:
            place = bisect.bisect_left(serials, temp.serial)
            order = results[place][1] if place < len(results) else ()
            found[temp] = order if order and len(order) == temp.rank else None
        return found

    def finish(
        self,
        region: Region,
        roots: list[Tensor],
        temps: dict[Tensor, str],
        stages: list[tp.Stage],
        strict: bool,
    ) -> Lowered:
        """Return the program of the stages, its inputs numbered in the order they are first
        read."""
        loaded = {
            line.tensor for stage in stages for line in stage.body if isinstance(line, tp.Load)
        }
        names = {t: source_name(t) for t in self.sources}
        used = [t for t in self.sources if names[t] in loaded]
        used = [*used, *self.kept(region, used)]
        needed = {d for t in (*used, *roots, *temps) for e in t.shape for d in e.dims()}
        needed |= {d for stage in stages for _, extent in stage.letters for d in extent.dims()}
        used, binds, multiples = self.with_binders(region, used, needed)
        if len(used) > MAX_INPUTS:
            raise Refused(f"{len(used)} inputs, and at most {MAX_INPUTS} are allowed")
        tensors = {names[t]: f"x{k}" for k, t in enumerate(used)}
        whole, quotients = divide(multiples)
        shapes = {
            t: tuple(whole.get(e) or ex.substitute(e, quotients) for e in t.shape) for t in used
        }
        order: dict[str, None] = {}
        for t in used:
            order.update(dict.fromkeys(d for e in shapes[t] for d in sorted(e.dims())))
            order.update(dict.fromkeys(binds.get(t, ())))
        order.update(dict.fromkeys(quotients))
        rename_dims = {d: ex.dim(f"D{k}") for k, d in enumerate(order)}
        again = lambda e: ex.substitute(e, rename_dims) if e.dims() else e  # noqa: E731
        orders = self.temp_orders(temps)
        orders.update({t: self.layouts.get(v) for t, v in self.sources.items()})
        orders.update({t: self.layouts.get(v) for t, v in zip(roots, region.outputs, strict=True)})

        def stated(kind: type[tp.Tensor], name: str, t: Tensor) -> tp.Tensor:
            return kind(name, t.dtype, tuple(map(again, shapes.get(t, t.shape))), orders.get(t))

        program = tp.Program(
            strict,
            tuple(
                dataclasses.replace(
                    stated(tp.Input, f"x{k}", t),
                    binds=tuple(str(rename_dims[d]) for d in binds.get(t, ())),
                )
                for k, t in enumerate(used)
            ),
            tuple((str(rename_dims[d]), again(e)) for d, e in quotients.items()),
            tuple(stated(tp.Tensor, n, t) for t, n in temps.items()),
            tuple(stated(tp.Tensor, f"y{k}", t) for k, t in enumerate(roots)),
            tuple(rename(stage, tensors, again) for stage in stages),
        )
        try:
            verify(program)
        except ProgramError as error:
            raise Refused(f"its program is not valid ({error})") from error
        text = print_program(program)
        inputs = tuple(self.sources[t] for t in used)
        seen = {v: self.layouts[v] for v in (*inputs, *region.outputs) if v in self.layouts}
        return Lowered(region, text, inputs, region.outputs, seen)

    def with_binders(
        self, region: Region, used: list[Tensor], needed: set[str]
    ) -> tuple[list[Tensor], Binds, Multiples]:
        """Return `used`, in order, with the inputs that give the extents `needed` which no used one
        has, the dims that shape tensors define, or must be equal to, and those that multiples
        give."""
        have = {d for t in used for d in named_dims(t)}
        for tensor in self.sources:
            found = named_dims(tensor) & needed - have
            if found:
                used.append(tensor)
                have |= found
        multiples = find_multiples(used, needed - have)
        have |= multiples.keys()
        binds: Binds = {}
        for value in region.inputs if needed - have else ():
            names = held_dims(value, self.symbols, (needed | have) - multiples.keys())
            if not have.issuperset(filter(None, names)):
                tensor = self.tensors.get(value) or self.source(value)
                self.tensors[value] = tensor
                used.append(tensor)
                binds[tensor] = tuple(n or f"U{len(binds)}_{k}" for k, n in enumerate(names))
                have.update(filter(None, names))
        if needed - have:
            raise Refused("an extent that no input gives")
        used = in_order([t for t in self.sources if t in set(used)], binds, multiples)
        return used, binds, multiples

    def kept(self, region: Region, used: list[Tensor]) -> list[Tensor]:
        """Return the inputs that the program does not read, but the region's operators do.

        The portable function needs them: a shape known to be what another input's is, or constants
        that are too big to be written into the function.
        """
        found = []
        given = {d for t in used for d in self.sources[t].shape or ()}
        for value in region.inputs:
            weight = value.weight
            if weight is not None and weight.nbytes <= MAX_INLINE or is_made(value, given):
                continue
            tensor = self.memory.get(value) or self.tensors.get(value) or self.source(value)
            self.tensors.setdefault(value, tensor)
            if tensor in self.sources and tensor not in used:
                found.append(tensor)
        return found
