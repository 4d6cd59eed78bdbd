"""The text form of programs: the printer, and the entrance to the parser.

A program's lines are in one-to-one order with its parts, so that errors found later can name the
line too.
"""

from __future__ import annotations

import math
import re

from onnx_fusion.dtypes import DType
from onnx_fusion.errors import ProgramError
from onnx_fusion.program.model import (
    FLOATS,
    Apply,
    Cast,
    Const,
    Dot,
    Index,
    Instruction,
    Literal,
    Load,
    Program,
    Reduce,
    Select,
    Store,
    Tensor,
    literal,
)
from onnx_fusion.program.read import Parser
from onnx_fusion.program.verify import verify

MAX_TEXT = 1 << 20

_ASCII = re.compile(r"[ -~\n]*")


def print_program(program: Program) -> str:
    """Return the program's canonical text."""
    lines = ["tile_program 1 strict" if program.strict else "tile_program 1"]
    for t in program.inputs:
        binds = f" as ({', '.join(t.binds)})" if t.binds else ""
        lines.append(f"input {_declare(t)}{binds}")
    lines += [f"dim {name} = {e}" for name, e in program.dims]
    lines += [f"temp {_declare(t)}" for t in program.temps]
    lines += [f"output {_declare(t)}" for t in program.outputs]
    types = {t.name: t.dtype for t in program.tensors()}
    for stage in program.stages:
        letters = ", ".join(f"{name}: {extent}" for name, extent in stage.letters)
        lines.append(f"stage {letters}" if letters else "stage")
        k = 0
        for line in stage.body:
            if isinstance(line, Store):
                lines.append(f"store {line.tensor} {_tuple(line.index)} {line.value}")
            else:
                lines.append(f"%{k} = {_instruction(line, types)}")
                k += 1
    return "\n".join(lines) + "\n"


def _declare(t: Tensor) -> str:
    layout = "row" if t.order is None else f"order{_tuple(t.order)}"
    return f"{t.name} {t.dtype}[{', '.join(map(str, t.shape))}] {layout}"


def _tuple(parts: tuple) -> str:
    return f"({', '.join(map(str, parts))})"


def _instruction(line: Instruction, types: dict[str, DType]) -> str:
    match line:
        case Load(tensor, index, fill):
            rest = "" if fill is None else f" else {print_literal(types[tensor], fill)}"
            return f"load {tensor} {_tuple(index)}{rest}"
        case Index(e):
            return f"index {e}"
        case Const(dtype, value):
            return f"const {dtype} {print_literal(dtype, value)}"
        case Cast(dtype, a):
            return f"cast {dtype} {a}"
        case Select(conds, a, b):
            tests = " and ".join(f"{c.left} {c.op} {c.right}" for c in conds)
            return f"select ({tests}) {a} {b}"
        case Reduce(op, a, letters):
            return f"{op} {a} over {', '.join(letters)}"
        case Dot(a, b, letters):
            return f"dot {a} {b} over {', '.join(letters)}"
        case Apply(op, args):
            return f"{op} {' '.join(map(str, args))}"


def print_literal(dtype: DType, value: Literal) -> str:
    """Return the shortest text that reads back as this value of the type."""
    value = literal(dtype, value)
    if dtype is DType.BOOL:
        return "true" if value else "false"
    if dtype not in FLOATS:
        return str(value)
    if math.isnan(value) or math.isinf(value):
        return str(value)
    for digits in range(1, 18):
        text = f"{value:.{digits}g}"
        if literal(dtype, float(text)) == value:
            break
    return repr(float(text)).removesuffix(".0")


def parse_program(text: str) -> Program:
    """Return the verified program that the text says.

    Raises ProgramError with one line, `line 7: ...`, for all that the specification excludes.
    """
    if len(text) > MAX_TEXT:
        raise ProgramError("the text is over 1 MiB")
    if not _ASCII.fullmatch(text):
        bad = next(k for k, line in enumerate(text.split("\n")) if not _ASCII.fullmatch(line))
        raise ProgramError(f"line {bad + 1}: a character is not printable ASCII")
    program = Parser(text).program()
    verify(program)
    return program
