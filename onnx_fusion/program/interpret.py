"""The meaning of programs, in NumPy: every kernel is tested against this.

A value is an array with one axis per letter of the stage, of extent 1 for a letter it does not
depend on, so that NumPy's broadcasting is broadcasting by letter.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from onnx_fusion.dtypes import DType
from onnx_fusion.errors import ProgramError
from onnx_fusion.program.bind import bind, extents, logical_shape
from onnx_fusion.program.expr import Expr, Tree
from onnx_fusion.program.instructions import INSTRUCTIONS, REDUCTIONS
from onnx_fusion.program.model import (
    Apply,
    Cast,
    Cond,
    Const,
    Dot,
    Index,
    Instruction,
    Literal,
    Load,
    Program,
    Reduce,
    Ref,
    Select,
    Stage,
    Store,
    from_bf16,
    literal,
    refs,
    to_bf16,
)
from onnx_fusion.program.verify import value_letters, value_types

CHUNK = 1 << 22
"""Where it can be cut, a stage is run in parts with about this many elements per value at most."""


def interpret(program: Program, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Return the physical outputs of a verified program for physical inputs.

    f32 functions, sums and products are computed in float64 and rounded once; the basic arithmetic
    is that of the type. bf16 is held as uint16 bits. Raises ProgramError where `bind` does, and for
    an indirect index out of range.
    """
    for t, array in zip(program.inputs, inputs, strict=False):
        if array.dtype != t.dtype.numpy:
            raise ProgramError(f"input '{t.name}' is {array.dtype}, but must be {t.dtype}")
    scalars = {
        k: [int(n) for n in inputs[k].reshape(-1)]
        for k, t in enumerate(program.inputs[: len(inputs)])
        if t.binds
    }
    dims = bind(program, [array.shape for array in inputs], scalars)
    memory: dict[str, np.ndarray] = {}
    for t, array in zip(program.inputs, inputs, strict=True):
        memory[t.name] = array if t.order is None else array.transpose(np.argsort(t.order))
    for t in (*program.temps, *program.outputs):
        memory[t.name] = np.zeros(logical_shape(t, dims), t.dtype.numpy)
    types = {t.name: t.dtype for t in program.tensors()}
    for number, stage in enumerate(program.stages):
        with np.errstate(all="ignore"):
            _Stage(number, stage, dims, memory, types).run()
    return [
        np.copy(memory[t.name].transpose(t.physical(tuple(range(t.rank)))), order="C")
        for t in program.outputs
    ]


class _Stage:
    def __init__(
        self,
        number: int,
        stage: Stage,
        dims: dict[str, int],
        memory: dict[str, np.ndarray],
        types: dict[str, DType],
    ) -> None:
        self.number = number
        self.stage = stage
        self.dims = dims
        self.memory = memory
        self.names = [name for name, _ in stage.letters]
        self.counts = extents(stage, dims)
        self.letters = value_letters(stage)
        self.types = value_types(stage, types)
        self.tensor_types = types
        self.grid: dict[str, np.ndarray] = {}
        self.values: list[np.ndarray] = []

    def run(self) -> None:
        for part in self.parts():
            self.grid = {}
            for axis, name in enumerate(self.names):
                shape = [1] * len(self.names)
                shape[axis] = -1
                points = part.get(name, range(self.counts[name]))
                self.grid[name] = np.arange(points.start, points.stop, dtype=np.int64).reshape(
                    shape
                )
            self.values = []
            for line in self.stage.body:
                if isinstance(line, Store):
                    self.store(line)
                else:
                    self.values.append(self.evaluate(line))

    def parts(self) -> Iterator[dict[str, range]]:
        """Yield ranges of one letter that is never reduced, so that values stay small."""
        points = max((math.prod(self.counts[n] for n in own) for own in self.letters), default=1)
        reduced: set[str] = set()
        for line in self.stage.instructions():
            if isinstance(line, Reduce | Dot):
                reduced.update(line.letters)
        kept = [name for name in self.names if name not in reduced]
        if points <= CHUNK or not kept:
            yield {}
            return
        name = max(kept, key=self.counts.__getitem__)
        step = max(1, self.counts[name] * CHUNK // points)
        for start in range(0, self.counts[name], step):
            yield {name: range(start, min(start + step, self.counts[name]))}

    def evaluate(self, line: Instruction) -> np.ndarray:
        k = len(self.values)
        shape = tuple(self.grid[n].size if n in self.letters[k] else 1 for n in self.names)
        dtype = self.types[k]
        if 0 in shape:
            return np.zeros(shape, dtype.numpy)
        result = np.asarray(self.compute(line, dtype))
        return np.broadcast_to(result, shape).astype(dtype.numpy, copy=False)

    def compute(self, line: Instruction, dtype: DType) -> np.ndarray:
        args = [self.values[r.k] for r in refs(line)]
        match line:
            case Load():
                return self.load(line)
            case Index(e):
                return self.expr(e)
            case Const(_, value):
                return _scalar(dtype, value)
            case Cast(_, a):
                return cast(args[0], self.types[a.k], dtype)
            case Select(conds, _, _):
                holds = np.bool_(True)
                for c in conds:
                    holds = holds & self.holds(c)
                return np.where(holds, args[0], args[1])
            case Reduce(op, _, letters):
                return self.reduce(op, args[0], letters, dtype)
            case Dot(a, b, letters):
                sides = [(args[0], self.letters[a.k]), (args[1], self.letters[b.k])]
                return self.dot(sides, frozenset(letters))
            case Apply(op, _):
                row = INSTRUCTIONS[op]
                if row.wide:
                    args = [a.astype(np.float64) for a in args]
                return row.function(*args)

    def expr(self, e: Expr) -> np.ndarray:
        return np.asarray(self.tree(e.tree), np.int64)

    def tree(self, tree: Tree) -> np.ndarray | int:
        kind = tree[0]
        if kind == "int":
            return tree[1]
        if kind == "dim":
            return self.dims[tree[1]]
        if kind == "letter":
            return self.grid[tree[1]]
        sides = [self.tree(t) for t in tree[1:]]
        return _EXPR[kind](*sides)

    def holds(self, c: Cond) -> np.ndarray:
        left, right = self.expr(c.left), self.expr(c.right)
        if c.op == "==":
            return left == right
        return left < right if c.op == "<" else left <= right

    def load(self, line: Load) -> np.ndarray:
        array = self.memory[line.tensor]
        if not line.index:
            return array
        index = []
        inside = np.bool_(True)
        for i, n in zip(line.index, array.shape, strict=True):
            at = self.values[i.k].astype(np.int64) if isinstance(i, Ref) else self.expr(i)
            inside = inside & (at >= 0) & (at < n)
            index.append(np.clip(at, 0, max(n - 1, 0)))
        if line.fill is None:
            if not np.all(inside):
                raise ProgramError(
                    f"stage {self.number}, %{len(self.values)}: an index into '{line.tensor}' of "
                    f"shape {list(array.shape)} is out of range"
                )
            return array[tuple(index)]
        fill = _scalar(self.tensor_types[line.tensor], line.fill)
        if array.size == 0:
            return np.broadcast_to(fill, np.broadcast_shapes(*(i.shape for i in index)))
        return np.where(inside, array[tuple(index)], fill)

    def reduce(self, op: str, a: np.ndarray, letters: tuple[str, ...], dtype: DType) -> np.ndarray:
        row = REDUCTIONS[op]
        axes = tuple(self.names.index(name) for name in letters)
        wide = np.float64 if row.wide and a.dtype == np.float32 else a.dtype
        return row.ufunc.reduce(
            a.astype(wide), axis=axes, keepdims=True, initial=row.nothing(dtype)
        )

    def dot(
        self, sides: list[tuple[np.ndarray, frozenset[str]]], over: frozenset[str]
    ) -> np.ndarray:
        """Return the sum of products as one batched matrix product in float64."""
        (a, in_a), (b, in_b) = sides
        a = self.sum_alone(a, in_a - in_b, over)
        b = self.sum_alone(b, in_b - in_a, over)
        both = [n for n in self.names if n in in_a & in_b]
        batch = [n for n in both if n not in over]
        inner = [n for n in both if n in over]
        rows = [n for n in self.names if n in in_a - in_b - over]
        columns = [n for n in self.names if n in in_b - in_a - over]
        left = self.arrange(a, batch, rows, inner)
        right = self.arrange(b, batch, inner, columns)
        order = batch + rows + columns
        order += [n for n in self.names if n not in order]
        shape = [self.grid[n].size if n in batch + rows + columns else 1 for n in order]
        return (left @ right).reshape(shape).transpose([order.index(n) for n in self.names])

    def sum_alone(self, a: np.ndarray, own: frozenset[str], over: frozenset[str]) -> np.ndarray:
        axes = tuple(k for k, name in enumerate(self.names) if name in own & over)
        return a.astype(np.float64).sum(axis=axes, keepdims=True)

    def arrange(self, a: np.ndarray, *groups: list[str]) -> np.ndarray:
        """Return the array with one axis per group of letters."""
        order = [self.names.index(n) for group in groups for n in group]
        rest = [k for k in range(len(self.names)) if k not in order]
        sizes = [math.prod(self.grid[n].size for n in group) for group in groups]
        return a.transpose(order + rest).reshape(sizes)

    def store(self, line: Store) -> None:
        value = self.values[line.value.k]
        if any(self.grid[n].size == 0 for e in line.index for n in e.letters()):
            return
        array = self.memory[line.tensor]
        if line.index:
            ones = np.zeros([1] * len(self.names), np.int64)
            array[tuple(self.expr(e) + ones for e in line.index)] = value
        else:
            array[()] = value.reshape(())


_EXPR = {
    "neg": lambda a: -a,
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "//": lambda a, b: a // b,
    "%": lambda a, b: a % b,
    "min": np.minimum,
    "max": np.maximum,
}


def _scalar(dtype: DType, value: Literal) -> np.ndarray:
    value = literal(dtype, value)
    if dtype is DType.BF16:
        return to_bf16(np.array(value))
    return np.array(value, dtype.numpy)


def cast(a: np.ndarray, source: DType, target: DType) -> np.ndarray:
    """Return the values converted as C does; f16 and bf16 by way of float32."""
    if source is DType.BF16:
        a = from_bf16(a)
    if target is DType.BOOL:
        return a != 0
    if target is DType.F16:
        return a.astype(np.float32).astype(np.float16)
    if target is DType.BF16:
        return to_bf16(a.astype(np.float32))
    return a.astype(target.numpy)
