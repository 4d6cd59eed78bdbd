"""Lowering each form of region once: the layers of a network repeat, and so do a planner's
questions.

Two regions have the same form if their nodes, attributes, types, shapes, layouts and wiring are the
same when values and symbols are numbered as they are met. Names do not count, nor do the contents
of constants, except of those that were read when the form was lowered for the first time.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np

from onnx_fusion.fusion.plan import Region
from onnx_fusion.graph.model import Dim, Graph, Node, Value
from onnx_fusion.graph.weights import Weight, watch
from onnx_fusion.lower.region import NO_LAYOUTS, Layouts, Lowered, lower
from onnx_fusion.ops.tensor import Refused
from onnx_fusion.passes.elements import Elements, elements

_BETWEEN = re.compile(r"[\s'(),]+")


@dataclasses.dataclass(frozen=True, slots=True)
class _Answer:
    """What a form lowers to: a program and its inputs' numbers, and a verdict on it or a refusal.

    It holds where the constants at the numbers `read` have these `contents`.
    """

    read: tuple[int, ...]
    contents: tuple[bytes, ...]
    program: str
    inputs: tuple[int, ...]
    reason: str | None


class Lowering:
    """Lowers the regions of one graph; `judge` returns why a lowered one will not do, or None."""

    def __init__(
        self,
        graph: Graph,
        judge: Callable[[Lowered], str | None],
        *,
        strict: bool = False,
        halves: bool = False,
    ) -> None:
        self.graph = graph
        self.judge = judge
        self.strict = strict
        self.halves = halves
        self._answers: dict[Hashable, list[_Answer]] = {}
        self._attributes: dict[Node, Hashable] = {}
        self._elements: dict[Value, Elements | None] = {}

    def refusal(self, region: Region, layouts: Layouts = NO_LAYOUTS) -> str | None:
        """Return None if the region has a program that will do, else the reason."""
        return self._answer(region, layouts)[0].reason

    def lower(self, region: Region, layouts: Layouts = NO_LAYOUTS) -> Lowered:
        """Return the region's program; raises `Refused` as `lower.lower` does."""
        answer, values = self._answer(region, layouts)
        if not answer.program:
            raise Refused(answer.reason or "")
        inputs = tuple(values[k] for k in answer.inputs)
        seen = {v: layouts[v] for v in (*inputs, *region.outputs) if v in layouts}
        return Lowered(region, answer.program, inputs, region.outputs, seen)

    def _answer(self, region: Region, layouts: Layouts) -> tuple[_Answer, list[Value]]:
        form = _Form(self.graph.products, self._attributes, self._elements)
        key = form.describe(region)
        if layouts:
            orders = ((k, layouts.get(v)) for k, v in enumerate(form.values))
            key = (key, tuple(one for one in orders if one[1] is not None))
        known = self._answers.setdefault(key, [])
        for answer in known:
            if answer.contents == tuple(_content(form.values[k].weight) for k in answer.read):
                return answer, form.values
        answer, complete = self._find(region, form, layouts)
        if complete:
            known.append(answer)
        return answer, form.values

    def _find(self, region: Region, form: _Form, layouts: Layouts) -> tuple[_Answer, bool]:
        """Return the answer, and whether it holds for every region of the form."""
        program, inputs = "", ()
        with watch() as read:
            try:
                made = lower(
                    region, self.graph, strict=self.strict, layouts=layouts, halves=self.halves
                )
                program, inputs = made.program, tuple(form.numbers[v] for v in made.inputs)
                reason = self.judge(made)
            except Refused as refused:
                reason = str(refused)
        places = {v.weight: k for k, v in enumerate(form.values) if v.weight in read}
        numbers = tuple(sorted(places.values()))
        contents = tuple(_content(form.values[k].weight) for k in numbers)
        words = set(_BETWEEN.split(reason or ""))
        named = any(value.name in words for value in form.values)
        # A reason that names a value is this region's own.
        complete = len(places) == len(read) and not named
        return _Answer(numbers, contents, program, inputs, reason), complete


class _Form:
    """Numbers for the values and symbols of a region, as they are met."""

    def __init__(
        self,
        products: dict[str, tuple[Dim, ...]],
        attributes: dict[Node, Hashable],
        elements: dict[Value, Elements | None],
    ) -> None:
        self.products = products
        self.attributes = attributes
        self.elements = elements
        self.values: list[Value] = []
        self.numbers: dict[Value, int] = {}
        self.symbols: dict[str, int] = {}
        self.parts: list[Hashable] = []

    def describe(self, region: Region) -> Hashable:
        """Return what regions of one form have in common."""
        for node in region.nodes:
            self.add(node)
        for node in region.nodes:
            self.add_parts(node)
        return (
            tuple(self.parts),
            tuple(self.number(v) for v in region.inputs),
            tuple(self.number(v) for v in region.outputs),
        )

    def add(self, node: Node) -> None:
        """Describe a node."""
        attributes = self.attributes.get(node)
        if attributes is None:
            attributes = self.attributes[node] = _attributes(node)
        self.parts.append(
            (
                attributes,
                tuple(None if v is None else self.number(v) for v in node.inputs),
                tuple(None if v is None else self.number(v) for v in node.outputs),
            )
        )

    def add_parts(self, node: Node) -> None:
        """Describe what stands for a node in a function; what it reads from elsewhere is unique."""
        for part in node.parts if node.body_is_parts else ():
            for value in part.inputs:
                if value is not None and value.weight is None and value not in self.numbers:
                    self.parts.append(id(value))
            self.add(part)
            self.add_parts(part)

    def number(self, value: Value) -> int:
        """Return the value's number; a new one is described."""
        known = self.numbers.get(value)
        if known is not None:
            return known
        number = self.numbers[value] = len(self.values)
        self.values.append(value)
        weight = value.weight
        constant = weight and (weight.code, weight.shape, weight.nbytes)
        held = self.held(value) if weight is None else None
        self.parts.append((value.dtype, self.numbered(value.shape), constant, self.numbered(held)))
        return number

    def numbered(self, dims: Sequence[Dim | None] | None) -> Hashable:
        """Return extents with symbols numbered."""
        return (
            None
            if dims is None
            else tuple(
                (
                    -1 - self.symbols.setdefault(d, len(self.symbols)),
                    self.numbered(self.products.get(d)),
                )
                if isinstance(d, str)
                else d
                for d in dims
            )
        )

    def held(self, value: Value) -> Elements | None:
        """Return what a shape tensor is known to hold."""
        if value not in self.elements:
            self.elements[value] = elements(value)
        return self.elements[value]


def _attributes(node: Node) -> Hashable:
    """Return a node's operator and attributes; one with subgraphs equals itself alone."""
    try:
        frozen = tuple((key, _freeze(value)) for key, value in sorted(node.attrs.items()))
    except TypeError:
        frozen = id(node)
    alone = id(node) if node.captures else None
    return node.op_type, node.domain, node.body_is_parts, len(node.parts), frozen, alone


def _freeze(value: Any) -> Hashable:
    if isinstance(value, (list, tuple)):
        return tuple(map(_freeze, value))
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.shape, value.tobytes()
    if value is None or isinstance(value, (int, float, str, bytes)):
        return type(value).__name__, repr(value)
    raise TypeError(type(value).__name__)


def _content(weight: Weight) -> bytes:
    raw = weight.raw()
    return bytes(raw) if len(raw) <= 64 else hashlib.blake2b(raw, digest_size=16).digest()
