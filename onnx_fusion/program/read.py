"""The parser of program texts: it accepts what sections 2 and 7 of the specification say."""

from __future__ import annotations

from onnx_fusion.dtypes import DType
from onnx_fusion.program.algebra import Expr
from onnx_fusion.program.instructions import INSTRUCTIONS, REDUCTIONS
from onnx_fusion.program.line import Line
from onnx_fusion.program.model import (
    Apply,
    Cast,
    Cond,
    Const,
    Dot,
    Index,
    Input,
    Instruction,
    Load,
    Program,
    Reduce,
    Select,
    Stage,
    Store,
    Tensor,
)
from onnx_fusion.program.verify import DIM_NAME, LETTER_NAME, TENSOR_NAME


class Parser:
    """Reads one text; `program` returns it, not yet verified."""

    def __init__(self, text: str) -> None:
        lines = text.split("\n")
        while lines and not lines[-1]:
            lines.pop()
        self.lines = lines
        self.next = 0
        self.line = Line("", 1)
        self.types: dict[str, DType] = {}
        self.bound: set[str] = set()

    def step(self) -> None:
        """Move to the next line; past the last one, to an empty one."""
        self.next += 1
        text = self.lines[self.next - 1] if self.next <= len(self.lines) else ""
        self.line = Line(text, self.next)

    def program(self) -> Program:
        self.step()
        self.line.expect("tile_program")
        version = self.line.integer()
        if version != 1:
            raise self.line.error(f"needs tile program {version}, but this onnx_fusion reads 1")
        strict = self.line.accept("strict")
        self.finish()
        inputs = self.section("input", self.input)
        dims = self.section("dim", self.dim)
        temps = self.section("temp", self.tensor)
        outputs = self.section("output", self.tensor)
        stages = self.section("stage", self.stage)
        if self.next <= len(self.lines):
            raise self.line.error(f"unexpected {self.line.found()}")
        return Program(strict, inputs, dims, temps, outputs, stages)

    def finish(self) -> None:
        self.line.end()
        self.step()

    def section(self, keyword: str, read) -> tuple:
        parts = []
        while self.line.accept(keyword):
            parts.append(read())
        return tuple(parts)

    def list(self, read, end: str = ")") -> tuple:
        """Return what `read` gives for each part of a list that may be empty, up to its end."""
        if self.line.accept(end):
            return ()
        parts = [read()]
        while self.line.accept(","):
            parts.append(read())
        self.line.expect(end)
        return tuple(parts)

    def declare(self) -> tuple:
        line = self.line
        name = line.name(TENSOR_NAME, "a tensor's name")
        dtype = line.dtype()
        line.expect("[")
        shape = self.list(self.extent, "]")
        order = None
        if not line.accept("row"):
            line.expect("order")
            line.expect("(")
            order = self.list(line.integer)
        self.types[name] = dtype
        return name, dtype, shape, order

    def extent(self) -> Expr:
        """Return an entry of a type; a name in parentheses is not bare, so it binds nothing."""
        bare = self.line.token != "("
        found = self.line.expr()
        if not bare and found.tree[0] == "dim" and found.tree[1] not in self.bound:
            raise self.line.error(f"dim '{found}' is not bound yet")
        self.bound |= found.dims()
        return found

    def tensor(self) -> Tensor:
        found = Tensor(*self.declare())
        self.finish()
        return found

    def input(self) -> Input:
        parts = self.declare()
        binds: tuple[str, ...] = ()
        if self.line.accept("as"):
            self.line.expect("(")
            binds = self.list(self.dim_name)
            if not binds:
                raise self.line.error("'as' names no dim")
        self.finish()
        return Input(*parts, binds)

    def dim_name(self) -> str:
        name = self.line.name(DIM_NAME, "a dim's name")
        self.bound.add(name)
        return name

    def letter_name(self) -> str:
        return self.line.name(LETTER_NAME, "a letter")

    def dim(self) -> tuple[str, Expr]:
        name = self.dim_name()
        self.line.expect("=")
        value = self.line.expr()
        self.finish()
        return name, value

    def letter(self) -> tuple[str, Expr]:
        name = self.letter_name()
        self.line.expect(":")
        return name, self.line.expr()

    def stage(self) -> Stage:
        letters = []
        if self.line.token:
            letters.append(self.letter())
            while self.line.accept(","):
                letters.append(self.letter())
        self.finish()
        body: list[Instruction | Store] = []
        k = 0
        while True:
            if self.line.accept("store"):
                body.append(self.store())
            elif self.line.at_value():
                if self.line.value().k != k:
                    raise self.line.error(f"expected %{k}")
                self.line.expect("=")
                body.append(self.instruction())
                k += 1
            else:
                return Stage(tuple(letters), tuple(body))
            self.finish()

    def store(self) -> Store:
        tensor = self.tensor_type()[0]
        self.line.expect("(")
        index = self.list(self.line.expr)
        return Store(tensor, index, self.line.value())

    def tensor_type(self) -> tuple[str, DType]:
        name = self.line.name(TENSOR_NAME, "a tensor's name")
        if name not in self.types:
            raise self.line.error(f"unknown tensor '{name}'")
        return name, self.types[name]

    def over(self) -> tuple[str, ...]:
        self.line.expect("over")
        letters = [self.letter_name()]
        while self.line.accept(","):
            letters.append(self.letter_name())
        return tuple(letters)

    def cond(self) -> Cond:
        left = self.line.expr()
        if self.line.token not in ("<", "<=", "=="):
            raise self.line.error(f"expected '<', '<=' or '==', found {self.line.found()}")
        return Cond(left, self.line.advance(), self.line.expr())

    def conds(self) -> tuple[Cond, ...]:
        self.line.expect("(")
        found = [self.cond()]
        while self.line.accept("and"):
            found.append(self.cond())
        self.line.expect(")")
        return tuple(found)

    def instruction(self) -> Instruction:
        line = self.line
        op = line.token
        if op in INSTRUCTIONS:
            line.advance()
            return Apply(op, tuple(line.value() for _ in range(INSTRUCTIONS[op].arity)))
        if op in REDUCTIONS:
            line.advance()
            return Reduce(op, line.value(), self.over())
        if line.accept("load"):
            tensor, dtype = self.tensor_type()
            line.expect("(")
            index = self.list(lambda: line.value() if line.at_value() else line.expr())
            return Load(tensor, index, line.literal(dtype) if line.accept("else") else None)
        if line.accept("index"):
            return Index(line.expr())
        if line.accept("const"):
            dtype = line.dtype()
            return Const(dtype, line.literal(dtype))
        if line.accept("cast"):
            dtype = line.dtype()
            return Cast(dtype, line.value())
        if line.accept("select"):
            return Select(self.conds(), line.value(), line.value())
        if line.accept("dot"):
            return Dot(line.value(), line.value(), self.over())
        raise line.error(f"expected an instruction, found {line.found()}")
