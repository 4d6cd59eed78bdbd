"""How a fused node names its kernel and its function (docs/decisions.md has the measurements).

Each distinct function body has an op type of its own, `FusedRegion_<k>`; the native library
registers these names, and a function of the same name stands in where it is not loaded.
"""

from __future__ import annotations

from collections.abc import Sequence

DOMAIN = "onnx_fusion"
VERSION = 1
OP_TYPE = "FusedRegion"
REGISTERED = 128
"""How many numbered names the library registers unless a session asks for more."""


MOST = 1024
"""How many numbered names the library registers at most."""


def number(bodies: Sequence[bytes], saved: Sequence[int]) -> list[int]:
    """Return each fused node's number: nodes with equal bodies share one.

    Numbers follow first appearance. If there are more bodies than names registered by default,
    those that save most bytes of intermediate results (`saved`, one per node) come first instead.
    """
    total: dict[bytes, int] = {}
    for body, amount in zip(bodies, saved, strict=True):
        total[body] = total.get(body, 0) + amount
    distinct = list(total)
    if len(distinct) > REGISTERED:
        distinct.sort(key=lambda body: -total[body])
    numbers = {body: k for k, body in enumerate(distinct)}
    return [numbers[body] for body in bodies]


def op_type(k: int | None) -> str:
    """Return the op type of the fused nodes with number `k`; None means without a function."""
    return OP_TYPE if k is None else f"{OP_TYPE}_{k}"
