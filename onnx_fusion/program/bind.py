"""Binding: the dims that a run's shapes define, and the proofs that nothing leaves its tensor.

Sections 3, 5 and 7 of the specification; the native library makes the same checks at every run.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from onnx_fusion.errors import ProgramError
from onnx_fusion.program.expr import (
    MAX_INT,
    MAX_VALUE,
    Expr,
    build,
    evaluate,
    interval,
)
from onnx_fusion.program.model import (
    Index,
    Input,
    Instruction,
    Load,
    Program,
    Ref,
    Select,
    Stage,
    Store,
    Tensor,
)
from onnx_fusion.program.verify import affine, value_letters

Box = list[tuple[int, int]]
"""A first index and a count per dim."""


def bind(
    program: Program,
    shapes: Sequence[tuple[int, ...]],
    scalars: Mapping[int, Sequence[int]] | None = None,
) -> dict[str, int]:
    """Return the value of every dim for inputs of these physical shapes.

    `scalars` holds, by the input's position, the contents of each input that has `as`. Raises
    ProgramError if a shape contradicts the program, a limit is exceeded, or an index or a store
    cannot be proved to stay inside its tensor. The program must be verified.
    """
    return _Binder(program, shapes, scalars or {}).run()


def output_shapes(program: Program, dims: Mapping[str, int]) -> list[tuple[int, ...]]:
    """Return the physical shape of each output, for dims as `bind` gives them."""
    return [t.physical(logical_shape(t, dims)) for t in program.outputs]


def logical_shape(tensor: Tensor, dims: Mapping[str, int]) -> tuple[int, ...]:
    """Return the tensor's extents in the order of its index maps."""
    return tuple(evaluate(e, dims) for e in tensor.shape)


def extents(stage: Stage, dims: Mapping[str, int]) -> dict[str, int]:
    """Return how many values each of the stage's letters takes."""
    return {name: evaluate(e, dims) for name, e in stage.letters}


class _Binder:
    def __init__(
        self,
        program: Program,
        shapes: Sequence[tuple[int, ...]],
        scalars: Mapping[int, Sequence[int]],
    ) -> None:
        self.program = program
        self.given = shapes
        self.scalars = scalars
        self.dims: dict[str, int] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.boxes: dict[str, list[Box]] = {}
        self.line = 1

    def fail(self, what: str) -> ProgramError:
        return ProgramError(f"line {self.line}: {what}")

    def run(self) -> dict[str, int]:
        p = self.program
        if len(self.given) != len(p.inputs):
            raise ProgramError(f"{len(self.given)} inputs for a program with {len(p.inputs)}")
        try:
            for position, t in enumerate(p.inputs):
                self.line += 1
                self.input(position, t)
            for name, e in p.dims:
                self.line += 1
                self.dims[name] = evaluate(e, self.dims)
            for t in (*p.temps, *p.outputs):
                self.line += 1
                self.tensor(t, logical_shape(t, self.dims))
                self.boxes[t.name] = []
            for stage in p.stages:
                self.stage(stage)
        except ProgramError as error:
            if str(error).startswith("line "):
                raise
            raise self.fail(str(error)) from None
        for name, boxes in self.boxes.items():
            self.cover(name, boxes)
        return self.dims

    def input(self, position: int, t: Input) -> None:
        physical = self.given[position]
        if len(physical) != len(t.shape):
            raise self.fail(f"input '{t.name}' has rank {len(physical)}, not {len(t.shape)}")
        shape = t.logical(tuple(map(int, physical)))
        for k, (e, actual) in enumerate(zip(t.shape, shape, strict=True)):
            if e.tree[0] == "dim" and e.tree[1] not in self.dims:
                self.dims[e.tree[1]] = actual
            expected = evaluate(e, self.dims)
            if expected != actual:
                raise self.fail(f"dim {k} of input '{t.name}' is {actual}, but {e} is {expected}")
        self.tensor(t, shape)
        if t.binds:
            contents = self.scalars.get(position)
            if contents is None or len(contents) != len(t.binds):
                raise self.fail(f"input '{t.name}' must hold {len(t.binds)} numbers")
            for k, (name, value) in enumerate(zip(t.binds, map(int, contents), strict=True)):
                if abs(value) > MAX_VALUE:
                    raise self.fail(f"{name} is {value}, outside +-2^60")
                if self.dims.setdefault(name, value) != value:
                    known = self.dims[name]
                    raise self.fail(f"input '{t.name}' holds {value} at {k}, but {name} is {known}")

    def tensor(self, t: Tensor, shape: tuple[int, ...]) -> None:
        for k, n in enumerate(shape):
            if not 0 <= n <= MAX_INT:
                raise self.fail(f"dim {k} of tensor '{t.name}' is {n}, outside [0, 2^40]")
        if math.prod(shape) >= MAX_INT:
            raise self.fail(f"tensor '{t.name}' of shape {list(shape)} has 2^40 elements or more")
        self.shapes[t.name] = shape

    def stage(self, stage: Stage) -> None:
        self.line += 1
        counts = extents(stage, self.dims)
        for name, n in counts.items():
            if not 0 <= n <= MAX_INT:
                raise self.fail(f"letter '{name}' has extent {n}, outside [0, 2^40]")
        if math.prod(counts.values()) >= MAX_VALUE:
            raise self.fail("the stage has 2^60 points or more")
        empty = {name for name, n in counts.items() if n == 0}
        letters = iter(value_letters(stage))
        for line in stage.body:
            self.line += 1
            if isinstance(line, Store):
                self.store(line, counts)
            elif empty.isdisjoint(next(letters)):
                self.instruction(line, counts)

    def instruction(self, line: Instruction, counts: dict[str, int]) -> None:
        match line:
            case Load(name, index, fill):
                for k, (i, n) in enumerate(zip(index, self.shapes[name], strict=True)):
                    if isinstance(i, Ref):
                        continue
                    low, high = interval(i, self.dims, counts)
                    if fill is None and not (low >= 0 and high < n):
                        raise self.fail(
                            f"index {k} of '{name}', {i}, is in [{low}, {high}], but the dim is {n}"
                        )
            case Index(e):
                interval(e, self.dims, counts)
            case Select(conds, _, _):
                for c in conds:
                    interval(c.left, self.dims, counts)
                    interval(c.right, self.dims, counts)

    def store(self, line: Store, counts: dict[str, int]) -> None:
        if any(counts[name] == 0 for e in line.index for name in e.letters()):
            return
        box = []
        for k, (e, n) in enumerate(zip(line.index, self.shapes[line.tensor], strict=True)):
            first, count = self.span(e, counts)
            if first < 0 or first + count > n:
                raise self.fail(
                    f"dim {k} of '{line.tensor}' is stored from {first} to {first + count - 1}, "
                    f"but is {n}"
                )
            box.append((first, count))
        self.boxes[line.tensor].append(box)

    def span(self, e: Expr, counts: dict[str, int]) -> tuple[int, int]:
        """Return the first index and the count that a store's index takes without a gap."""
        interval(e, self.dims, counts)
        first, digits = 0, []
        for name, tree in affine(e.tree):
            value = evaluate(build(tree), self.dims)
            if name is None:
                first += value
            elif counts[name] > 1:
                digits.append((value, counts[name]))
        stride = 1
        for coefficient, count in sorted(digits):
            if coefficient != stride:
                raise self.fail(f"the letters of '{e}' leave gaps or overlap: {sorted(digits)}")
            stride *= count
        return first, stride

    def cover(self, name: str, boxes: list[Box]) -> None:
        """Check that the boxes partition the tensor."""
        want = math.prod(self.shapes[name])
        have = sum(math.prod(count for _, count in box) for box in boxes)
        if have != want:
            raise ProgramError(f"the stores of '{name}' write {have} of its {want} elements")
        for k, a in enumerate(boxes):
            for b in boxes[:k]:
                if all(x < y + m and y < x + n for (x, n), (y, m) in zip(a, b, strict=True)):
                    raise ProgramError(f"two stores of '{name}' overlap")
