"""Whole models for scripts/fuzz.py: grown graphs with names, bodies, functions, free extents."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import onnx
from fuzz_blocks import BLOCKS, branches, image_block, tensorflow_image
from fuzz_graphs import Grower, Rejected, captures, close, grow, info
from fuzz_steps import STEPS, convolve, pool
from onnx import TensorProto, helper, numpy_helper

OPSETS = (7, 8, 9, 10, 11, 11, 12, 13, 13, 14, 15, 16, 17, 17, 17, 18, 18, 19, 20, 21, 22, 23)
ODD = ("a b", "x:0", "StatefulPartitionedCall/x:0", "%0", "äé", "日本", "a\nb", "'", '"', "\\",
       "r", "region_0", "FusedRegion_0", "0", "-1", "a//b", ".", "v", "$", "{x}", "#", ";",
       "é" * 90, "M", "N", "i", "tile_program", "output", "input", "<", "a\tb",
       "None")  # fmt: skip

WINDOWS = (convolve, pool, branches, image_block, tensorflow_image)


@dataclasses.dataclass(frozen=True, slots=True)
class Case:
    """A model, inputs that ONNX Runtime runs it on, and a line on how it was made."""

    model: onnx.ModelProto
    feeds: dict[str, np.ndarray]
    about: str


def make(seed: int) -> Case:
    """Return the case of a seed. Raises Rejected if nothing grew from it."""
    random = np.random.default_rng(seed)
    opset = OPSETS[seed % len(OPSETS)] if seed % 3 else 17
    g = Grower(random, opset, extreme=seed % 7 == 3)
    dtype = g.pick([np.float32] * 14 + [np.float64, np.float16])
    for _ in range(g.number(1, 3)):
        rank = g.pick([0, 1, 2, 2, 3, 3, 4, 4, 4, 5])
        g.given(g.data(g.shape(rank), dtype if rank else np.float32, extreme=True))
    steps = g.pick([STEPS, STEPS + BLOCKS * 2, STEPS + BLOCKS, BLOCKS])
    if g.extreme:
        # A transform of tiles spreads what is not finite, and overflows sooner.
        steps = tuple(step for step in steps if step not in WINDOWS)
    grow(g, steps, g.pick([1, 2, 4, 8, 16, 30]))
    if not g.nodes:
        raise Rejected("nothing grew")
    return finish(g)


def finish(g: Grower) -> Case:
    """Return a grown graph as model, with what models of other tools have, at random."""
    notes = [f"opset {g.opset}"]
    read = {name for node in g.nodes for name in node.input}
    made = [name for node in g.nodes for name in node.output]
    shown = [name for name in made if name not in read and name in g.values]
    inner = [name for name in made if name in read and name in g.values]
    shown += [str(n) for n in g.random.permutation(inner)[: g.number(0, 2)]] if inner else []
    nodes, functions = list(g.nodes), []
    if g.chance(0.12):
        nodes = branch(g, nodes, shown)
        notes.append("If")
    elif g.chance(0.1) and g.opset >= 10:
        nodes = repeat(g, nodes, shown)
        notes.append("Loop")
    elif g.chance(0.15) and g.opset >= 14:
        nodes, functions = function(g, nodes, shown)
        notes.append("function")
    used = {name for node in nodes for name in reads(node)}
    inputs = {n: a for n, a in g.inputs.items() if n in used or g.chance(0.3)}
    constants = {n: a for n, a in g.constants.items() if n in used or g.chance(0.3)}
    if g.chance(0.05) and inputs:
        shown.append(g.pick(list(inputs)))
        notes.append("an input is an output")
    if g.chance(0.05) and constants:
        shown.append(g.pick(list(constants)))
        notes.append("an initializer is an output")
    shown = list(dict.fromkeys(shown))
    ir = g.pick([7, 8, 8, 8, 9, 10] if functions else [3, 4, 6, 7, 8, 8, 8, 9, 10])
    if functions:
        ir = max(ir, 8)
    listed = list(constants) if ir < 4 else [n for n in constants if g.chance(0.02)]
    written = {n: a for n, a in constants.items() if n not in listed and g.chance(0.15)}
    first = [helper.make_node("Constant", [], [n], value=numpy_helper.from_array(a))
             for n, a in written.items()]  # fmt: skip
    tensors = [tensor(g, n, a) for n, a in constants.items() if n not in written]
    types = [typed(g, n, inputs[n], notes) for n in inputs]
    types += [info(n, constants[n]) for n in listed]
    outputs = [result(g, n) for n in shown]
    graph = helper.make_graph([*first, *nodes], "fuzz", types, outputs, tensors)
    if g.chance(0.3):
        for n, a in g.values.items():
            if n in made and n not in shown and g.chance(0.5) and not functions:
                # An extent said here is a promise for all extents of the inputs.
                dims = None if all(map(is_fixed, types)) else [None] * a.ndim
                graph.value_info.append(info(n, a, dims))
    label(g, graph, notes)
    feeds = dict(inputs)
    if g.chance(0.1):
        feeds = rename(g, graph, feeds, functions)
        notes.append("odd names")
    model = close(graph, g.opset, ir, functions)
    return Case(model, feeds, f"{', '.join(notes)}, IR {ir}, {len(nodes)} nodes")


def tensor(g: Grower, name: str, array: np.ndarray) -> onnx.TensorProto:
    """Return an initializer, its data as bytes or as numbers."""
    if array.dtype in (np.float32, np.int64) and g.chance(0.2):
        number = helper.np_dtype_to_tensor_dtype(array.dtype)
        return helper.make_tensor(name, number, array.shape, array.reshape(-1).tolist())
    return numpy_helper.from_array(array, name)


def typed(g: Grower, name: str, array: np.ndarray, notes: list[str]) -> onnx.ValueInfoProto:
    """Return an input's type: with its extents, names for some, or none."""
    kind = g.pick([0, 0, 1, 1, 2, 3])
    if not kind or not array.ndim:
        return info(name, array)
    if kind == 1:
        notes.append("free batch")
        return info(name, array, [f"batch{array.shape[0]}", *array.shape[1:]])
    if kind == 2:
        notes.append("free extents")
        return info(name, array, [f"d{d}" if d > 1 else d for d in array.shape])
    notes.append("nameless extents")
    return info(name, array, [None] * array.ndim)


def is_fixed(value: onnx.ValueInfoProto) -> bool:
    """Return whether a type has all its extents."""
    return all(dim.HasField("dim_value") for dim in value.type.tensor_type.shape.dim)


def result(g: Grower, name: str) -> onnx.ValueInfoProto:
    """Return an output's type: its rank, or nothing of its shape."""
    array = g.values[name]
    if g.chance(0.5):
        return info(name, array, [None] * array.ndim)
    number = helper.np_dtype_to_tensor_dtype(array.dtype)
    return helper.make_tensor_value_info(name, number, None)


def reads(node: onnx.NodeProto) -> list[str]:
    """Return what a node reads, its bodies' captures too."""
    bodies = [name for a in node.attribute if a.HasField("g") for name in captures(a.g)]
    return [*filter(None, node.input), *bodies]


def run_of(
    g: Grower, nodes: Sequence[onnx.NodeProto], shown: Sequence[str]
) -> tuple[int, int, list[str], list[str]]:
    """Return a run of nodes, what it reads and what is read of it."""
    start = g.number(0, len(nodes) - 1)
    stop = g.number(start + 1, min(len(nodes), start + 8))
    for node in nodes[:stop]:
        early = g.opset < 11 and node.op_type in ("Squeeze", "Unsqueeze")
        if early and any(min(a.ints, default=0) < 0 for a in node.attribute):
            # ONNX Runtime runs it, and infers another rank, which a body's output must have.
            raise Rejected("a negative axis in a body, or before it")
    run, rest = nodes[start:stop], [*nodes[:start], *nodes[stop:]]
    made = dict.fromkeys(name for node in run for name in node.output if name)
    outer = {name for node in rest for name in reads(node)} | set(shown)
    read = dict.fromkeys(n for node in run for n in reads(node) if n not in made)
    return start, stop, list(read), [n for n in made if n in outer and n in g.values]


def copies(g: Grower, run: Sequence[onnx.NodeProto], names: dict[str, str]) -> list[onnx.NodeProto]:
    """Return the nodes with new names for what they compute; `names` receives them."""
    made = []
    for node in run:
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        names.update((n, g.name()) for n in node.output if n)
        for attribute in copy.attribute:
            if attribute.HasField("g") or attribute.graphs:
                raise Rejected("bodies are not copied")
        copy.input[:] = [names.get(n, n) for n in node.input]
        copy.output[:] = [names.get(n, n) for n in node.output]
        made.append(copy)
    return made


def unknown(g: Grower, name: str, new: str) -> onnx.ValueInfoProto:
    number = helper.np_dtype_to_tensor_dtype(g.values[name].dtype)
    return helper.make_tensor_value_info(new, number, None)


def branch(g: Grower, nodes: list, shown: Sequence[str]) -> list[onnx.NodeProto]:
    """Return the nodes with a run in both branches of an If, which reads what is outside."""
    start, stop, _, out = run_of(g, nodes, shown)
    if not out:
        return nodes
    test = g.given(np.asarray(g.chance(0.5)))
    bodies = []
    for kind in ("then", "else"):
        names: dict[str, str] = {}
        inner = copies(g, nodes[start:stop], names)
        if kind == "else" and g.values[out[0]].dtype.kind == "f":
            last = g.name()
            inner.append(helper.make_node("Neg", [names[out[0]]], [last]))
            names[out[0]] = last
        bodies.append(helper.make_graph(inner, kind, [], [unknown(g, n, names[n]) for n in out]))
    made = helper.make_node("If", [test], out, then_branch=bodies[0], else_branch=bodies[1])
    return [*nodes[:start], made, *nodes[stop:]]


def repeat(g: Grower, nodes: list, shown: Sequence[str]) -> list[onnx.NodeProto]:
    """Return the nodes with a run in a Loop's body, whose last round's results count."""
    start, stop, _, out = run_of(g, nodes, shown)
    if not out or any(not g.values[n].size for n in out):
        return nodes
    names: dict[str, str] = {}
    inner = copies(g, nodes[start:stop], names)
    step, going, still = g.name(), g.name(), g.name()
    inner.append(helper.make_node("Identity", [going], [still]))
    before = [g.name() for _ in out]
    body = helper.make_graph(
        inner, "body",
        [helper.make_tensor_value_info(step, TensorProto.INT64, []),
         helper.make_tensor_value_info(going, TensorProto.BOOL, []),
         *(unknown(g, n, b) for n, b in zip(out, before, strict=True))],
        [helper.make_tensor_value_info(still, TensorProto.BOOL, []),
         *(unknown(g, n, names[n]) for n in out)],
    )  # fmt: skip
    first = [g.constant(np.zeros_like(g.values[n])) for n in out]
    rounds = g.constant(np.int64(g.number(1, 3)))
    made = helper.make_node("Loop", [rounds, "", *first], out, body=body)
    return [*nodes[:start], made, *nodes[stop:]]


def function(g: Grower, nodes: list, shown: Sequence[str]) -> tuple[list, list]:
    """Return the nodes with a run as one call of a model-local function, and the function."""
    start, stop, read, out = run_of(g, nodes, shown)
    if not out or any(a.HasField("g") for n in nodes[start:stop] for a in n.attribute):
        return nodes, []
    made = helper.make_function(
        "fuzz", "Part", read, out, nodes[start:stop],
        [helper.make_opsetid("", g.opset), helper.make_opsetid("com.microsoft", 1)])
    call = helper.make_node("Part", read, out, domain="fuzz")
    return [*nodes[:start], call, *nodes[stop:]], [made]


def label(g: Grower, graph: onnx.GraphProto, notes: list[str]) -> None:
    """Give the nodes names, none, or the same."""
    kind = g.pick(["none", "own", "same", "odd"])
    for index, node in enumerate(graph.node):
        node.name = {"none": "", "own": f"/layer.{index}/{node.op_type}", "same": "node",
                     "odd": f"{ODD[index % len(ODD)]}{index}"}[kind]  # fmt: skip
    notes.append(f"{kind} node names")


def rename(
    g: Grower, graph: onnx.GraphProto, feeds: dict[str, np.ndarray], functions: Sequence
) -> dict[str, np.ndarray]:
    """Give values odd names, everywhere in the main graph; return the inputs by these."""
    every = [n for node in graph.node for n in (*node.input, *node.output) if n]
    every += [v.name for v in (*graph.input, *graph.output)]
    odd = [str(one) for one in g.random.permutation(ODD)]
    names = dict(zip(dict.fromkeys(every), odd, strict=False))

    def change(one: onnx.GraphProto) -> None:
        for value in (*one.input, *one.output, *one.value_info, *one.initializer):
            value.name = names.get(value.name, value.name)
        for node in one.node:
            node.input[:] = [names.get(n, n) for n in node.input]
            node.output[:] = [names.get(n, n) for n in node.output]
            for attribute in node.attribute:
                if attribute.HasField("g"):
                    change(attribute.g)

    change(graph)
    return {names.get(n, n): a for n, a in feeds.items()}
