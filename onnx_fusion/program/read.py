"""The parser of program texts: it accepts what sections 2 and 7 of the specification say."""

from __future__ import annotations

import math
import re

from onnx_fusion.dtypes import DType, from_text
from onnx_fusion.errors import ProgramError
from onnx_fusion.program.algebra import Expr, read
from onnx_fusion.program.instructions import INSTRUCTIONS, REDUCTIONS
from onnx_fusion.program.model import (
    FLOATS,
    Apply,
    Cast,
    Cond,
    Const,
    Dot,
    Index,
    Input,
    Instruction,
    Literal,
    Load,
    Program,
    Reduce,
    Ref,
    Select,
    Stage,
    Store,
    Tensor,
    literal,
)
from onnx_fusion.program.tree import MAX_INT, Tree
from onnx_fusion.program.verify import (
    DIM_NAME,
    LETTER_NAME,
    MAX_DEPTH,
    MAX_NODES,
    TENSOR_NAME,
)

MAX_LITERAL = 40

_TOKEN = re.compile(r" *([A-Za-z0-9_]+|//|<=|==|[-+*%<=:,()\[\]])?")
_LITERAL = re.compile(r" *([^ ]*)")
_DECIMAL = re.compile(r"-?[0-9]+(\.[0-9]+)?(e[-+]?[0-9]+)?")
_INTEGER = re.compile(r"-?[0-9]+")


class _Line:
    """A cursor over the tokens of one line."""

    def __init__(self, text: str, number: int) -> None:
        self.text = text
        self.number = number
        self.at = 0
        self.token = ""
        self.start = 0
        self.advance()

    def advance(self) -> str:
        """Return the current token and step to the next; "" is the end."""
        last = self.token
        found = _TOKEN.match(self.text, self.at)
        self.token = found[1] or ""
        self.start, self.at = found.end() - len(self.token), found.end()
        if not self.token and self.at < len(self.text):
            raise self.error(f"unexpected '{self.text[self.at]}'")
        return last

    def error(self, what: str) -> ProgramError:
        return ProgramError(f"line {self.number}: {what}")

    def found(self) -> str:
        return f"'{self.token[:40]}'" if self.token else "the end of the line"

    def accept(self, token: str) -> bool:
        if self.token != token:
            return False
        self.advance()
        return True

    def expect(self, token: str) -> None:
        if not self.accept(token):
            raise self.error(f"expected '{token}', found {self.found()}")

    def name(self, pattern: re.Pattern, what: str) -> str:
        if not pattern.fullmatch(self.token):
            raise self.error(f"expected {what}, found {self.found()}")
        return self.advance()

    def integer(self) -> int:
        if not self.token.isdigit():
            raise self.error(f"expected a number, found {self.found()}")
        digits = self.token.lstrip("0") or "0"
        if len(digits) > 13 or int(digits) > MAX_INT:
            raise self.error("a number is over 2^40")
        self.advance()
        return int(digits)

    def at_value(self) -> bool:
        return self.token == "%" and self.text[self.at : self.at + 1].isdigit()

    def value(self) -> Ref:
        if not self.at_value():
            raise self.error(f"expected a value such as %0, found {self.found()}")
        self.advance()
        return Ref(self.integer())

    def dtype(self) -> DType:
        found = from_text(self.token)
        if found is None:
            raise self.error(f"expected a type, found {self.found()}")
        self.advance()
        return found

    def literal(self, dtype: DType) -> Literal:
        text = _LITERAL.match(self.text, self.start)[1]
        self.at = self.start + len(text)
        self.token = ""
        self.advance()
        if len(text) > MAX_LITERAL:
            raise self.error(f"a literal is longer than {MAX_LITERAL} characters")
        if dtype is DType.BOOL:
            if text in ("true", "false"):
                return text == "true"
        elif dtype not in FLOATS:
            if _INTEGER.fullmatch(text):
                try:
                    return literal(dtype, int(text))
                except OverflowError:
                    pass
        elif text in ("inf", "-inf", "nan"):
            return literal(dtype, float(text))
        elif _DECIMAL.fullmatch(text):
            value = float(text)
            if math.isfinite(literal(DType.F64 if dtype is DType.F64 else DType.F32, value)):
                return literal(dtype, value)
        raise self.error(f"'{text}' is not a literal of {dtype}")

    def end(self) -> None:
        if self.token:
            raise self.error(f"unexpected {self.found()}")

    def expr(self) -> Expr:
        reader = _ExprReader(self)
        tree = reader.sum(0)
        return read(tree, reader.names)


class _ExprReader:
    def __init__(self, line: _Line) -> None:
        self.line = line
        self.nodes = 0
        self.names: set[str] = set()

    def count(self) -> None:
        self.nodes += 1
        if self.nodes > MAX_NODES:
            raise self.line.error(f"an expression has over {MAX_NODES} nodes")

    def sum(self, depth: int) -> Tree:
        tree = self.term(depth)
        while self.line.token in ("+", "-"):
            self.count()
            tree = (self.line.advance(), tree, self.term(depth))
        return tree

    def term(self, depth: int) -> Tree:
        tree = self.factor(depth)
        while self.line.token in ("*", "//", "%"):
            self.count()
            tree = (self.line.advance(), tree, self.factor(depth))
        return tree

    def factor(self, depth: int) -> Tree:
        line = self.line
        if depth > MAX_DEPTH:
            raise line.error(f"an expression is nested over {MAX_DEPTH} deep")
        if line.accept("("):
            tree = self.sum(depth + 1)
            line.expect(")")
            return tree
        self.count()
        if line.accept("-"):
            return ("neg", self.factor(depth + 1))
        if line.token in ("min", "max"):
            kind = line.advance()
            line.expect("(")
            left = self.sum(depth + 1)
            line.expect(",")
            right = self.sum(depth + 1)
            line.expect(")")
            return (kind, left, right)
        if line.token.isdigit():
            return ("int", line.integer())
        is_dim = DIM_NAME.fullmatch(line.token) is not None
        if not is_dim and not LETTER_NAME.fullmatch(line.token):
            raise line.error(f"expected a number, a dim or a letter, found {line.found()}")
        self.names.add(line.token)
        return ("dim" if is_dim else "letter", line.advance())


class Parser:
    """Reads one text; `program` returns it, not yet verified."""

    def __init__(self, text: str) -> None:
        lines = text.split("\n")
        while lines and not lines[-1]:
            lines.pop()
        self.lines = lines
        self.next = 0
        self.line = _Line("", 1)
        self.types: dict[str, DType] = {}
        self.bound: set[str] = set()

    def step(self) -> None:
        """Move to the next line; past the last one, to an empty one."""
        self.next += 1
        text = self.lines[self.next - 1] if self.next <= len(self.lines) else ""
        self.line = _Line(text, self.next)

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
