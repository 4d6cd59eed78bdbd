"""Where an optimized model's time goes, by kind of region, for scripts/bench.py --share."""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import onnxruntime

from onnx_fusion.runtime.session import session
from onnx_fusion.runtime.surgery import fused_nodes

RUNS = 20
DOT = re.compile(r"^%\d+ = dot %\d+ %\d+ over (.*)$", re.MULTILINE)


def kind_of(program: str) -> str:
    """Return what most of a tile program's work is: by its dots, else by its reductions."""
    dots = DOT.findall(program)
    if any("," in letters for letters in dots):
        return "convolution"
    if len(dots) > 1 and "= exp " in program:
        return "attention"
    if dots:
        return "matrix product"
    return "rows" if "= reduce_" in program else "element-wise"


def share(path: str, inputs: Mapping[str, np.ndarray], threads: int) -> dict[str, float]:
    """Return each kind's share of the time in kernels, the largest first; what ONNX Runtime runs
    itself goes by its operator's name."""
    kinds = {
        node.name: kind_of(onnx.helper.get_node_attr_value(node, "program").decode())
        for node in fused_nodes(onnx.load(path, load_external_data=False))
    }
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.enable_profiling = True
    with tempfile.TemporaryDirectory() as folder:
        options.profile_file_prefix = os.path.join(folder, "profile")
        made = session(path, threads=threads, options=options)
        names = {value.name for value in made.get_inputs()}
        for _ in range(RUNS):
            made.run(None, {name: array for name, array in inputs.items() if name in names})
        events = json.loads(Path(made.end_profiling()).read_text())
    spent: Counter[str] = Counter()
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            name = event["name"].removesuffix("_kernel_time")
            spent[kinds.get(name) or event["args"]["op_name"]] += event["dur"]
    total = sum(spent.values()) or 1
    return {kind: took / total for kind, took in spent.most_common()}
