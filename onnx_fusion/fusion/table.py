"""DNNFusion's mapping-type analysis (PLDI 2021, Table 3) as a literal.

Rows are the first operator's mapping type, columns the second's. G fuses, Y fuses if it pays, R
never fuses; beside it stands the type of the fused operator. The types and the two red cells are
printed in the paper; its colours follow the prose of section 3.2.
"""

from __future__ import annotations

import enum

from onnx_fusion.ops.mapping import MappingType


class Verdict(enum.Enum):
    """What a cell of the table says of a pair."""

    GREEN = "fuse"
    YELLOW = "fuse if it pays"
    RED = "never fuse"


_O, _E, _M, _R, _S = (
    MappingType.ONE_TO_ONE,
    MappingType.ONE_TO_MANY,
    MappingType.MANY_TO_MANY,
    MappingType.REORGANIZE,
    MappingType.SHUFFLE,
)
_TYPES = (_O, _E, _M, _R, _S)
_G, _Y, _N = Verdict.GREEN, Verdict.YELLOW, Verdict.RED

# fmt: off
_CELLS = {
    #     one-to-one  one-to-many  many-to-many  reorganize  shuffle
    _O: ((_G, _O),   (_G, _E),    (_G, _M),     (_G, _R),   (_G, _S)),
    _E: ((_G, _E),   (_Y, _E),    (_N, None),   (_Y, _E),   (_Y, _E)),
    _M: ((_G, _M),   (_Y, _M),    (_N, None),   (_Y, _M),   (_Y, _M)),
    _R: ((_G, _R),   (_Y, _E),    (_Y, _M),     (_G, _R),   (_G, _R)),
    _S: ((_G, _S),   (_Y, _E),    (_Y, _M),     (_G, _R),   (_G, _S)),
}
# fmt: on


def look_up(first: MappingType, second: MappingType) -> tuple[Verdict, MappingType | None]:
    """Return the verdict for a producer's and a consumer's type, and the fused type (None if
    red)."""
    return _CELLS[first][_TYPES.index(second)]
