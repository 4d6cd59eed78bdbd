"""What lowering a region gives."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType

from onnx_fusion.fusion.plan import Region
from onnx_fusion.graph.model import Value

Layouts = Mapping[Value, tuple[int, ...]]
NO_LAYOUTS: Layouts = MappingProxyType({})


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Lowered:
    """A region and its tile program; program inputs x0, x1, ... are `inputs` in order.

    `layouts` has the order of dims in memory of those inputs and outputs that are not rows. `ptx`
    holds CUDA kernels for it, if the node is to carry them.
    """

    region: Region
    program: str
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    layouts: Layouts = dataclasses.field(default_factory=dict)
    ptx: str = ""

    def physical(self, value: Value) -> tuple[int | str, ...]:
        """Return the shape in memory of an input or output."""
        shape = value.shape or ()
        return tuple(shape[k] for k in self.layouts.get(value, range(len(shape))))
