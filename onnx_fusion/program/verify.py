"""The static rules of programs: sections 2 to 5 and 7 of the specification.

`verify` walks the program in the order of its text and names the text's line in every error.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from onnx_fusion.dtypes import DType
from onnx_fusion.errors import ProgramError
from onnx_fusion.program.expr import Expr
from onnx_fusion.program.instructions import ARITHMETIC, INSTRUCTIONS, REDUCTIONS, result_type
from onnx_fusion.program.model import (
    Apply,
    Cast,
    Const,
    Dot,
    Index,
    Instruction,
    Load,
    Program,
    Reduce,
    Ref,
    Select,
    Stage,
    Store,
    Tensor,
    literal,
    refs,
)
from onnx_fusion.program.tree import MAX_INT, Tree, has_letters

MAX_INPUTS, MAX_OUTPUTS, MAX_TEMPS = 256, 64, 256
MAX_DIMS, MAX_BINDS, MAX_RANK = 128, 16, 16
MAX_STAGES, MAX_LETTERS, MAX_BODY = 256, 16, 2048
MAX_DEPTH, MAX_NODES = 24, 256

TENSOR_NAME = re.compile(r"[a-z][a-z0-9_]{0,31}")
LETTER_NAME = re.compile(r"(?!(?:min|max)$)[a-z][a-z0-9]{0,31}")
DIM_NAME = re.compile(r"[A-Z][A-Za-z0-9_]{0,31}")

INDEX_TYPES = (DType.I64, DType.I32)


def verify(program: Program) -> None:
    """Raise ProgramError, one line that names the text's, if the program breaks a static rule."""
    _Verifier(program).run()


def value_types(stage: Stage, tensors: dict[str, DType]) -> list[DType]:
    """Return the type of each of a verified stage's values; `tensors` gives those of tensors."""
    types: list[DType] = []
    for line in stage.instructions():
        types.append(_type_of(line, [types[r.k] for r in refs(line)], tensors))
    return types


def value_letters(stage: Stage) -> list[frozenset[str]]:
    """Return L of each of a verified stage's values."""
    letters: list[frozenset[str]] = []
    for line in stage.instructions():
        letters.append(_letters_of(line, letters))
    return letters


def _type_of(line: Instruction, args: Sequence[DType], tensors: dict[str, DType]) -> DType | str:
    """Return the result's type, or what is wrong with the operands'."""
    match line:
        case Load(tensor, _, _):
            if any(a not in INDEX_TYPES for a in args):
                return "an indirect index is neither i64 nor i32"
            return tensors[tensor]
        case Index(_):
            return DType.I64
        case Const(dtype, _) | Cast(dtype, _):
            return dtype
        case Select(_, _, _):
            return args[0] if args[0] is args[1] else f"the operands are {args[0]} and {args[1]}"
        case Reduce(op, _, _):
            return args[0] if args[0] in ARITHMETIC else f"{op} does not exist for {args[0]}"
        case Dot(_, _, _):
            return DType.F32 if set(args) == {DType.F32} else "dot needs f32"
        case Apply(op, _):
            given = ", ".join(map(str, args))
            return result_type(op, tuple(args)) or f"{op} does not exist for {given}"


def _letters_of(line: Instruction, known: Sequence[frozenset[str]]) -> frozenset[str]:
    found: set[str] = set()
    for r in refs(line):
        found |= known[r.k]
    match line:
        case Load(_, index, _):
            for i in index:
                if not isinstance(i, Ref):
                    found |= i.letters()
        case Index(e):
            found |= e.letters()
        case Select(conds, _, _):
            for c in conds:
                found |= c.left.letters() | c.right.letters()
        case Reduce(_, _, letters) | Dot(_, _, letters):
            found -= set(letters)
    return frozenset(found)


class _Verifier:
    def __init__(self, program: Program) -> None:
        self.program = program
        self.line = 1
        self.dims: set[str] = set()
        self.letters: set[str] = set()
        self.tensors: dict[str, Tensor] = {}
        self.types: dict[str, DType] = {}
        self.inputs = {t.name for t in program.inputs}
        self.stored: dict[str, int] = {}
        self.loaded: set[str] = set()

    def need(self, holds: object, what: str) -> None:
        if not holds:
            raise ProgramError(f"line {self.line}: {what}")

    def limit(self, parts: Sequence, most: int, what: str) -> None:
        self.need(len(parts) <= most, f"over {most} {what}")

    def run(self) -> None:
        p = self.program
        self.limit(p.inputs, MAX_INPUTS, "inputs")
        self.limit(p.temps, MAX_TEMPS, "temps")
        self.limit(p.outputs, MAX_OUTPUTS, "outputs")
        self.limit(p.stages, MAX_STAGES, "stages")
        self.need(p.outputs, "the program has no output")
        self.need(p.stages, "the program has no stage")
        for t in p.inputs:
            self.line += 1
            self.input(t)
        for name, e in p.dims:
            self.line += 1
            self.expr(e)
            self.define(name)
        for t in (*p.temps, *p.outputs):
            self.line += 1
            self.tensor(t)
        for k, stage in enumerate(p.stages):
            self.stage(k, stage)
        for t in (*p.temps, *p.outputs):
            self.need(t.name in self.stored, f"tensor '{t.name}' is never stored")

    def define(self, name: str) -> None:
        self.need(DIM_NAME.fullmatch(name), f"'{name}' is not a dim's name")
        self.need(name not in self.dims, f"dim '{name}' is defined twice")
        self.dims.add(name)
        self.need(len(self.dims) <= MAX_DIMS, f"over {MAX_DIMS} dims")

    def expr(self, e: Expr, letters: bool = False) -> None:
        unknown = e.dims() - self.dims
        self.need(not unknown, f"dim '{min(unknown, default='')}' is not defined yet")
        if letters:
            unknown = e.letters() - self.letters
            self.need(not unknown, f"letter '{min(unknown, default='')}' is not one of the stage's")
        else:
            self.need(not e.letters(), f"'{e}' has letters where only dims may stand")
        nodes, depth = self.measure(e.tree)
        self.need(nodes <= MAX_NODES, f"an expression has over {MAX_NODES} nodes")
        self.need(depth <= MAX_DEPTH, f"an expression is nested over {MAX_DEPTH} deep")

    def measure(self, tree: Tree, rank: int = 0) -> tuple[int, int]:
        """Return nodes and depth of a tree that is parenthesised if it ranks lower than `rank`."""
        kind = tree[0]
        if kind == "int":
            self.need(0 <= tree[1] <= MAX_INT, "a number is over 2^40")
            return 1, 0
        if kind in ("dim", "letter"):
            return 1, 0
        if kind == "neg":
            nodes, depth = self.measure(tree[1], 3)
            return nodes + 1, depth + 1
        if kind in ("min", "max"):
            sides = self.measure(tree[1]), self.measure(tree[2])
            return sides[0][0] + sides[1][0] + 1, max(sides[0][1], sides[1][1]) + 1
        own = 1 if kind in ("+", "-") else 2
        left, right = self.measure(tree[1], own), self.measure(tree[2], own + 1)
        if kind in ("//", "%"):
            self.need(not has_letters(tree[2]), "a divisor has letters")
        return left[0] + right[0] + 1, max(left[1], right[1]) + (own < rank)

    def input(self, t: Tensor) -> None:
        for e in t.shape:
            if e.tree[0] == "dim" and e.tree[1] not in self.dims:
                self.define(e.tree[1])
            else:
                self.expr(e)
        self.tensor(t)
        for name in t.binds:
            if name not in self.dims:
                self.define(name)
        if t.binds:
            self.limit(t.binds, MAX_BINDS, "names after 'as'")
            self.need(t.dtype in INDEX_TYPES, "'as' needs an i64 or i32 tensor")
            whole = t.shape == () and len(t.binds) == 1
            counted = len(t.shape) == 1 and t.shape[0].tree == ("int", len(t.binds))
            self.need(whole or counted, "'as' needs rank 0 and one name, or [n] and n names")

    def tensor(self, t: Tensor) -> None:
        self.need(TENSOR_NAME.fullmatch(t.name), f"'{t.name}' is not a tensor's name")
        self.need(t.name not in self.tensors, f"tensor '{t.name}' is defined twice")
        self.limit(t.shape, MAX_RANK, "dims")
        if t.order is not None:
            good = len(t.shape) > 0 and sorted(t.order) == list(range(len(t.shape)))
            self.need(good, f"order {t.order} is not a permutation of {len(t.shape)} dims")
        for e in t.shape:
            self.expr(e)
        self.tensors[t.name] = t
        self.types[t.name] = t.dtype

    def stage(self, number: int, stage: Stage) -> None:
        self.line += 1
        self.limit(stage.letters, MAX_LETTERS, "letters in a stage")
        self.letters = set()
        for name, extent in stage.letters:
            self.need(LETTER_NAME.fullmatch(name), f"'{name}' is not a letter")
            self.need(name not in self.letters, f"letter '{name}' is defined twice")
            self.expr(extent)
            self.letters.add(name)
        start = self.line
        self.limit(stage.body, MAX_BODY, "lines in a stage")
        self.need(stage.stores(), f"the stage on line {start} has no store")
        types: list[DType] = []
        letters: list[frozenset[str]] = []
        for line in stage.body:
            self.line += 1
            for r in refs(line):
                self.need(0 <= r.k < len(types), f"{r} is not defined yet")
            if isinstance(line, Store):
                self.store(number, line, types, letters)
                continue
            self.instruction(number, line, letters)
            found = _type_of(line, [types[r.k] for r in refs(line)], self.types)
            self.need(isinstance(found, DType), str(found))
            types.append(found)
            letters.append(_letters_of(line, letters))

    def instruction(
        self, number: int, line: Instruction, letters: Sequence[frozenset[str]]
    ) -> None:
        match line:
            case Load():
                self.load(number, line)
            case Index(e):
                self.expr(e, letters=True)
            case Select(conds, _, _):
                self.need(conds, "select has no condition")
                for c in conds:
                    self.need(c.op in ("<", "<=", "=="), f"'{c.op}' is not a comparison")
                    self.expr(c.left, letters=True)
                    self.expr(c.right, letters=True)
            case Reduce(op, a, over):
                self.need(op in REDUCTIONS, f"'{op}' is not a reduction")
                self.over(over, letters[a.k])
            case Dot(a, b, over):
                self.over(over, letters[a.k] | letters[b.k])
            case Apply(op, args):
                row = INSTRUCTIONS.get(op)
                self.need(row is not None, f"unknown instruction '{op}'")
                self.need(len(args) == row.arity, f"{op} takes {row.arity} values")

    def over(self, named: tuple[str, ...], letters: frozenset[str]) -> None:
        self.need(named, "a reduction names no letter")
        for name in named:
            self.need(name in letters, f"no operand depends on letter '{name}'")
        self.need(len(set(named)) == len(named), "a letter is named twice")

    def access(self, name: str, index: tuple) -> Tensor:
        self.need(name in self.tensors, f"unknown tensor '{name}'")
        tensor = self.tensors[name]
        rank = len(tensor.shape)
        self.need(len(index) == rank, f"{len(index)} indices for tensor '{name}' of rank {rank}")
        for i in index:
            if not isinstance(i, Ref):
                self.expr(i, letters=True)
        return tensor

    def load(self, number: int, line: Load) -> None:
        tensor = self.access(line.tensor, line.index)
        if tensor.name not in self.inputs:
            earlier = self.stored.get(tensor.name, number) < number
            self.need(earlier, f"tensor '{tensor.name}' is not stored by an earlier stage")
        self.loaded.add(tensor.name)
        if line.fill is not None:
            try:
                literal(tensor.dtype, line.fill)
            except (OverflowError, ValueError, TypeError):
                self.need(False, f"'{line.fill}' is not a literal of {tensor.dtype}")

    def store(
        self,
        number: int,
        line: Store,
        types: Sequence[DType],
        letters: Sequence[frozenset[str]],
    ) -> None:
        tensor = self.access(line.tensor, line.index)
        self.need(tensor.name not in self.inputs, f"input '{tensor.name}' cannot be stored")
        self.need(tensor.name not in self.loaded, f"tensor '{tensor.name}' was loaded before")
        self.stored[tensor.name] = number
        seen: set[str] = set()
        for e in line.index:
            terms = affine(e.tree)
            self.need(terms is not None, f"'{e}' is not a sum of letters times constants")
            for name in (name for name, _ in terms if name):
                self.need(name not in seen, f"letter '{name}' occurs twice in a store's map")
                seen.add(name)
        missing = letters[line.value.k] - seen
        self.need(not missing, f"the map lacks letter '{min(missing, default='')}' of the value")
        given = types[line.value.k]
        self.need(given is tensor.dtype, f"the value is {given}, the tensor {tensor.dtype}")


def affine(tree: Tree) -> list[tuple[str | None, Tree]] | None:
    """Return the terms of a store's index: (letter, coefficient), or (None, term) without a letter.

    Returns None if the index is not of the form that stores need. The tree of a term that is
    subtracted is wrapped in a negation.
    """
    if tree[0] == "+":
        left, right = affine(tree[1]), affine(tree[2])
        return None if left is None or right is None else left + right
    if tree[0] == "-":
        left, right = affine(tree[1]), tree[2]
        return None if left is None or has_letters(right) else [*left, (None, ("neg", right))]
    if not has_letters(tree):
        return [(None, tree)]
    if tree[0] == "letter":
        return [(tree[1], ("int", 1))]
    if tree[0] == "*":
        for side, other in ((tree[1], tree[2]), (tree[2], tree[1])):
            if side[0] == "letter" and not has_letters(other):
                return [(side[1], other)]
    return None
