"""`bisect ORIGINAL`: which regions or rules make results differ, and a small model that shows
it."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from onnx_fusion.cli import show
from onnx_fusion.cli.optimize import add_planning, planning
from onnx_fusion.errors import OnnxFusionError
from onnx_fusion.graph.names import all_names

if TYPE_CHECKING:
    from onnx_fusion.api import Planned
    from onnx_fusion.lower import Lowered
    from onnx_fusion.runtime.inputs import Inputs


def add(commands: argparse._SubParsersAction) -> None:
    """Add the command and its options."""
    parser = commands.add_parser(
        "bisect", help="find the regions or rules that break a model, for a bug report"
    )
    parser.add_argument("original", metavar="ORIGINAL", help="the model to optimize and compare")
    parser.add_argument("--inputs", metavar="X.npz", help="as for verify; else random")
    parser.add_argument(
        "--output",
        default="bisect",
        metavar="DIR",
        help="where minimal.onnx, its inputs and report.txt go (default bisect)",
    )
    add_planning(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print what is at fault, and write it to the folder; nothing is written if all is well."""
    from onnx_fusion.runtime.inputs import read_inputs
    from onnx_fusion.runtime.verify import verify

    if Path(args.output).exists() and not Path(args.output).is_dir():
        raise OnnxFusionError(f"{args.output}: cannot be written: file exists")
    search = Search(args.original, planning(args))
    given = read_inputs(args.inputs, args.original) if args.inputs else None
    planned = search.plan()
    report = verify(args.original, search.emit(planned), given, library=True)
    if report.passed:
        regions = show.plural(len(planned.lowered), "region")
        print(f"{args.original}: equivalent with {regions}; nothing is at fault")
        return 0
    search.inputs = report.inputs
    lines = [f"{args.original}: {report.failure()}"]
    regions, kernels = search.regions(planned)
    for one in regions:
        names = all_names(one.region.nodes, planned.model.proto)
        how = "kernel" if kernels else "operators"
        lines.append(f"{one.region.name} is at fault ({how}): {', '.join(names)}")
    rules = search.rules()
    if rules:
        lines += [f"rule {name} is at fault" for name in rules]
    else:
        lines.append("no rule is at fault: it fails with all of them disabled")
    folder = Path(args.output)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lines += search.write(planned, regions, folder)
        programs = [f"{one.region.name}\n{one.program}" for one in regions]
        (folder / "report.txt").write_text("\n".join([*lines, "", *programs, ""]))
    except OSError as error:
        said = (error.strerror or str(error)).lower()
        raise OnnxFusionError(f"{folder}: cannot be written: {said}") from None
    print("\n".join(lines))
    return 0


class Search:
    """A model that fails, and what can be left out of its optimized copy."""

    def __init__(self, original: str, options: dict[str, Any]) -> None:
        self.original = original
        self.options = options
        self.inputs: Inputs | None = None

    def plan(self, **changed: object) -> Planned:
        """Return the plan under the options, some of them changed."""
        from onnx_fusion.api import plan_programs

        return plan_programs(self.original, **{**self.options, **changed})

    def emit(self, planned: Planned, chosen: list[Lowered] | None = None) -> onnx.ModelProto:
        """Return the model with only the chosen regions fused, all if none are named."""
        from onnx_fusion.emit import emit
        from onnx_fusion.graph.save import to_proto

        chosen = list(planned.lowered) if chosen is None else chosen
        made = emit(planned.model, planned.graph, chosen)
        return to_proto(made.proto, made.weights)

    def fails(self, made: onnx.ModelProto, *, library: bool = True) -> bool:
        """Return whether a copy gives other results than the original, or does not run."""
        from onnx_fusion.runtime.verify import verify

        try:
            return not verify(self.original, made, self.inputs, library=library).passed
        except OnnxFusionError:
            return True

    def regions(self, planned: Planned) -> tuple[list[Lowered], bool]:
        """Return a smallest set of regions that fails, and whether only their kernels do.

        If the portable functions differ too, what they hold was rewritten wrongly.
        """
        from onnx_fusion.runtime.shrink import shrink

        kernels = not self.fails(self.emit(planned), library=False)
        found = shrink(
            list(planned.lowered),
            lambda some: self.fails(self.emit(planned, some), library=kernels),
        )
        return found, kernels

    def rules(self) -> list[str]:
        """Return a smallest set of rules without which nothing fails, none if no rule matters."""
        from onnx_fusion.api import list_rules
        from onnx_fusion.runtime.shrink import shrink

        before = set(self.options["disabled"])
        names = [rule.name for rule in list_rules() if rule.name not in before]

        def with_only(some: list[str]) -> bool:
            disabled = before | (set(names) - set(some))
            return self.fails(self.emit(self.plan(disabled=tuple(disabled))))

        return [] if with_only([]) else shrink(names, with_only)

    def write(self, planned: Planned, regions: list[Lowered], folder: Path) -> list[str]:
        """Write the minimal model and its inputs, and return what to say of them."""
        from onnx_fusion.runtime.shrink import cut_out, holders
        from onnx_fusion.runtime.side import Side
        from onnx_fusion.runtime.surgery import show as reveal

        nodes = [node for one in regions for node in one.region.nodes]
        indices = holders(planned.model, planned.graph, nodes)
        minimal = cut_out(planned.model, planned.graph, indices)
        wanted = [info.name for info in minimal.graph.input]
        side = Side(self.original, library=False, threads=1)
        inner = [name for name in wanted if name not in self.inputs]
        values = side.run(self.inputs, inner, reveal(side.proto, inner))
        arrays = {**self.inputs, **dict(zip(inner, values, strict=True))}
        feeds = {name: np.asarray(arrays[name]) for name in wanted}
        target = folder / "minimal.onnx"
        onnx.save(minimal, target)
        np.savez(folder / "inputs.npz", **{f"in_{name}": array for name, array in feeds.items()})
        options = {key: self.options[key] for key in ("strict", "disabled")}
        alone = Search(str(target), {**options, "policy": "all"})
        alone.inputs = feeds
        still = alone.fails(alone.emit(alone.plan()))
        said = "fails as well" if still else "passes alone: the rest of the model matters"
        return [f"{target}: {show.plural(len(minimal.graph.node), 'node')}, {said}"]
