"""What an index map's expressions are made of."""

from __future__ import annotations

from onnx_fusion.program import expr as ex
from onnx_fusion.program.division import collect
from onnx_fusion.program.model import Ref


def linear(index: ex.Expr) -> tuple[ex.Expr, dict[str, ex.Expr]] | None:
    """Return the letter-free part and each letter's coefficient, None if `index` is not affine."""
    offset, terms = ex.const(0), {}
    for factors, coefficient in collect(index).items():
        if not factors:
            offset = coefficient
        elif len(factors) == 1 and factors[0].kind == "letter":
            terms[factors[0].left] = coefficient
        else:
            return None
    return offset, terms


def letters_in(index: tuple[ex.Expr | Ref, ...]) -> frozenset[str]:
    """Return the letters of an index map's expressions."""
    return frozenset().union(*(e.letters() for e in index if isinstance(e, ex.Expr)))
