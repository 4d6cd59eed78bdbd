"""What the planner asks of the machine it plans for."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence

from onnx_fusion.fusion import cost
from onnx_fusion.fusion.plan import Region
from onnx_fusion.fusion.template import NAMES
from onnx_fusion.graph.model import Value

MAX_NODES = 256


Accept = Callable[[Region], str | None]


@dataclasses.dataclass(frozen=True, slots=True)
class Target:
    """`accept(region)` returns None if the machine can run it, else the reason.

    `take_yellow` fuses what the table leaves to judgement without asking the cost model (the
    paper's "fuse whatever is legal"). `leave_renames` gives up regions that only give values
    another shape (ops.peer). `max_inputs` and `max_nodes` are the paper's constraint check (section
    4.3.2); `templates` names the rules that may open red cells (template.TEMPLATES); `rates` are
    those of the machine's kernels; `extents` are numbers for the graph's symbols, the usual ones
    and small ones (passes.sizes), for rules about the size of kernels. `reads` returns what the
    kernel of an accepted region reads; without it, that is all the region's inputs.
    """

    accept: Accept
    reads: Callable[[Region], Collection[Value]] | None = None
    max_inputs: int = 64
    max_nodes: int = MAX_NODES
    take_yellow: bool = True
    leave_renames: bool = True
    templates: Collection[str] = NAMES
    rates: cost.Rates = cost.FUSED
    extents: Sequence[Mapping[str, int]] = ()
