"""The waist: tile programs, their text, their rules and their meaning.

docs/tile_program.md specifies them.
"""

from onnx_fusion.program.bind import bind, output_shapes
from onnx_fusion.program.expr import (
    Expr,
    as_int,
    const,
    dim,
    evaluate,
    interval,
    letter,
    maximum,
    minimum,
    simplify,
    substitute,
)
from onnx_fusion.program.interpret import interpret
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
    Ref,
    Select,
    Stage,
    Store,
    Tensor,
)
from onnx_fusion.program.text import parse_program, print_program
from onnx_fusion.program.verify import verify

__all__ = [
    "Apply",
    "Cast",
    "Cond",
    "Const",
    "Dot",
    "Expr",
    "Index",
    "Input",
    "Instruction",
    "Load",
    "Program",
    "Reduce",
    "Ref",
    "Select",
    "Stage",
    "Store",
    "Tensor",
    "as_int",
    "bind",
    "const",
    "dim",
    "evaluate",
    "interpret",
    "interval",
    "letter",
    "maximum",
    "minimum",
    "output_shapes",
    "parse_program",
    "print_program",
    "simplify",
    "substitute",
    "verify",
]
