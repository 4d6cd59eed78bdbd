"""What a device's execution provider reads on the host: inputs that decide about shapes or control
flow.

Read off the registrations of ONNX Runtime's CUDA provider (its kernels' InputMemoryType).
"""

from __future__ import annotations

from onnx_fusion.graph.model import Graph, Node, Value

MOST_ELEMENTS = 64
_AXES = {
    f"Reduce{name}": (1,)
    for name in (
        "L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare",
    )  # fmt: skip
}
HOST_INPUTS: dict[str, tuple[int, ...]] = {
    **_AXES,
    "AffineGrid": (1,),
    "CenterCropPad": (1,),
    "ConstantOfShape": (0,),
    "CumSum": (1,),
    "Dropout": (1, 2),
    "Expand": (1,),
    "If": (0,),
    "Loop": (0, 1),
    "MaxUnpool": (2,),
    "NonMaxSuppression": (2, 3, 4),
    "OneHot": (1,),
    "Pad": (1, 2, 3),
    "Range": (0, 1, 2),
    "Reshape": (1,),
    "Resize": (1, 2, 3),
    "SequenceAt": (1,),
    "Slice": (1, 2, 3, 4),
    "Split": (1,),
    "Squeeze": (1,),
    "Tile": (1,),
    "TopK": (1,),
    "Trilu": (1,),
    "Unsqueeze": (1,),
    "Upsample": (1,),
}
"""Positions of such inputs, by operator."""


def host_nodes(graph: Graph) -> dict[Node, str]:
    """Return the nodes whose results feed inputs that are read on the host, each with the reason to
    leave it there: on the device, every run would wait for it, and could not be captured.

    Only small tensors of rank 0 or 1 are followed back, so what such a value is computed from stays
    on the device.
    """
    found: dict[Node, str] = {}
    stack = [
        (value, f"its result is an extent for {node.op_type}, which is read on the host")
        for node in graph.nodes
        if not node.domain
        for position, value in enumerate(node.inputs)
        if position in HOST_INPUTS.get(node.op_type, ()) and value is not None
    ]
    while stack:
        value, reason = stack.pop()
        node = value.producer
        if value.weight is not None or node is None or node in found or not _is_small(value):
            continue
        found[node] = reason
        stack.extend((v, reason) for v in node.inputs if v is not None)
    return found


def _is_small(value: Value) -> bool:
    if value.shape is None or len(value.shape) > 1:
        return False
    return all(isinstance(dim, str) or dim <= MOST_ELEMENTS for dim in value.shape)
