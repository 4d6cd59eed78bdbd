"""A line of a program text: its tokens, and the expressions and literals among them."""

from __future__ import annotations

import math
import re

from onnx_fusion.dtypes import DType, from_text
from onnx_fusion.errors import ProgramError
from onnx_fusion.program.algebra import Expr, read
from onnx_fusion.program.model import FLOATS, Literal, Ref, literal
from onnx_fusion.program.tree import MAX_INT, Tree
from onnx_fusion.program.verify import DIM_NAME, LETTER_NAME, MAX_DEPTH, MAX_NODES

MAX_LITERAL = 40

_TOKEN = re.compile(r" *([A-Za-z0-9_]+|//|<=|==|[-+*%<=:,()\[\]])?")
_LITERAL = re.compile(r" *([^ ]*)")
_DECIMAL = re.compile(r"-?[0-9]+(\.[0-9]+)?(e[-+]?[0-9]+)?")
_INTEGER = re.compile(r"-?[0-9]+")


class Line:
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
    def __init__(self, line: Line) -> None:
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
