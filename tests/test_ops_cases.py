"""Every row of the operator table on ONNX's backend node cases, also with constants in place."""

from __future__ import annotations

import re

import pytest
from backend_cases import Case, cases
from ops_run import fuse, pin, run, same

from onnx_fusion.ops.table import TABLE

ROWS = sorted(op for (domain, op), row in TABLE.items() if not domain and row.lower)
NO_CASE = {"GlobalLpPool", "SimplifiedLayerNormalization"}
"""Rows that no backend case covers; tests/test_ops_position.py does."""

OTHER_TYPES = r"(f16|bf16|i8|u8|i16|u16|u32|u64)"
REFUSALS = {
    "*": (
        rf"element type {OTHER_TYPES}( has no such instruction)?",
        r"'.*' has an element type that programs do not have",
    ),
    "Cast": (r"no cast from .*(f16|None|\b[iu](8|16)\b|u32|u64).*",),
    "CastLike": (r"no cast from .*(f16|None|\b[iu](8|16)\b|u32|u64).*",),
    "Attention": (
        "Attention with a soft cap, padded keys, or its scores as an output",
        "Attention with a (mask of fewer columns than keys|softmax of another precision)",
        "Attention in a window",
        "element type f64 has no such instruction",
    ),
    "BatchNormalization": ("BatchNormalization in training mode",),
    "ConvTranspose": (
        "phases whose maps are not linear",
        "an odd number of positions is cut to reach the output's size",
    ),
    "Dropout": ("Dropout in training mode",),
    "MaxPool": ("MaxPool with indices",),
    "Mod": (r"Mod of floats needs fmod=1 \(ONNX Mod\)",),
    "Pad": (r"Pad mode .* by \d+ of an axis of \d+",),
    "MatMul": ("element type (f64|i32|i64) has no such instruction",),
    "Resize": (
        "Resize mode cubic",
        "Resize with (antialias|exclude_outside)",
        "Resize with coordinates (tf_crop_and_resize|half_pixel_symmetric)",
        "Resize that keeps the aspect ratio",
        "Resize with corners aligned to a fraction .*",
        "ONNX Runtime rounds positions of this scale differently",
        "linear elements by a scale that is no whole number",
        "nearest elements at positions that are not linear",
    ),
    "Range": ("element type f(32|64) has no such instruction",),
    "ReduceMax": ("element type bool has no such instruction",),
    "ReduceMin": ("element type bool has no such instruction",),
}
"""Why a single node may stay unfused; any other reason fails, so no case is lost in silence."""

AT_RUN_TIME = {
    "Dropout", "Expand", "Pad", "Reshape", "Slice", "Split", "Squeeze", "Tile", "Unsqueeze",
    "CumSum", "OneHot", "Range", "Resize", "Trilu", "Upsample",
    "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean",
    "ReduceMin", "ReduceProd", "ReduceSum", "ReduceSumSquare",
}  # fmt: skip
"""Operators that need some inputs constant: the variant in which nothing is may be refused."""

COMPOSED = (
    "input .* is not constant", "the rank of '.*' is not known", "cannot tell whether .*",
    "its inputs are not known to agree on the other axes",
    "a slice of an axis of unknown extent", "its output shape depends on data",
    "it has no output that is used", ".*the program has no output.*",
)  # fmt: skip
CHUNKS = 8


def check(case: Case) -> set[str]:
    """Return the operators that some variant of the case lowered; all results must be right."""
    lowered: set[str] = set()
    single = len(case.model.graph.node) == 1
    for pinned in case.variants():
        fused = fuse(pin(case.model, pinned))
        where = f"{case.name} with {sorted(pinned) or 'nothing'} constant"
        for node, reason in fused.reasons.items():
            allowed = [*REFUSALS["*"], *REFUSALS.get(node.op_type, ())]
            if not single or (not pinned and node.op_type in AT_RUN_TIME):
                allowed += COMPOSED
            known = any(re.fullmatch(pattern, reason) for pattern in allowed)
            assert known, f"{where}: {node.op_type} is refused: {reason}"
        if not fused.plan.regions:
            continue
        try:
            for actual, wanted in zip(run(fused, case.inputs), case.outputs, strict=True):
                same(actual, wanted, case.rtol, case.atol)
        except Exception as error:
            programs = "\n".join(one.program for one in fused.lowered)
            raise AssertionError(f"{where}: {error}\n{programs}") from error
        lowered |= fused.op_types()
    return lowered


@pytest.mark.parametrize("op_type", ROWS)
def test_row(op_type: str) -> None:
    """The row gives what ONNX expects wherever it does not refuse, and covers at least one case."""
    lowered = False
    for case in cases():
        nodes = case.model.graph.node
        if len(nodes) == 1 and nodes[0].op_type == op_type:
            lowered |= op_type in check(case)
    assert lowered == (op_type not in NO_CASE)


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_expanded(chunk: int) -> None:
    """ONNX's function bodies, which compose rows, give what the functions do."""
    composed = [c for c in cases() if len(c.model.graph.node) > 1]
    assert len(composed) > 300
    for case in composed[chunk::CHUNKS]:
        check(case)
