"""What must hold of a model before anything is done with it."""

from __future__ import annotations

import functools

import onnx

from onnx_fusion.errors import ModelError
from onnx_fusion.graph import scope

OWN_DOMAIN = "onnx_fusion"
OLDEST_OPSET = 7
ONNX_DOMAINS = ("", "ai.onnx")
_FAR = 99


def check(proto: onnx.ModelProto, where: str) -> None:
    """Raise ModelError if it is no model, or already optimized, or its names do not fit together.

    Also if its IR version or opset is outside what the installed ONNX Runtime accepts.
    """
    if not proto.HasField("graph") or not (proto.graph.node or proto.graph.output):
        raise ModelError(f"{where}: not an ONNX model: it has no graph")
    _check_text(proto.graph, where)
    _check_versions(proto, where)
    inner = (node for function in proto.functions for node in function.node)
    for node in (*scope.every_node(proto.graph), *inner):
        if node.domain == OWN_DOMAIN:
            raise ModelError(f"{where}: already optimized: node {node.name!r} is {node.op_type} of "
                             f"domain {OWN_DOMAIN}; start from the original model")
    for i, node in enumerate(proto.graph.node):
        _check_arity(node, i, opset(proto), where)
    check_names(proto.graph, set(), where)


def _check_text(graph: onnx.GraphProto, where: str) -> None:
    """Raise ModelError if a name is not UTF-8, which protobuf leaves to the reader."""
    texts = [tensor.name for tensor in graph.initializer]
    texts += [info.name for info in (*graph.input, *graph.output, *graph.value_info)]
    for node in graph.node:
        texts += (node.name, node.op_type, node.domain, *node.input, *node.output)
        texts += (attribute.name for attribute in node.attribute)
        for body in scope.subgraphs(node):
            _check_text(body, where)
    for text in texts:
        if not isinstance(text, str):
            raise ModelError(f"{where}: not an ONNX model: the name {text!r} is not UTF-8")


def _check_arity(node: onnx.NodeProto, index: int, version: int | None, where: str) -> None:
    """Raise ModelError if an ONNX operator has a wrong number of inputs or outputs."""
    if node.domain not in ONNX_DOMAINS or version is None:
        return
    try:
        schema = onnx.defs.get_schema(node.op_type, version, "")
    except onnx.defs.SchemaError:
        return
    for kind, names, least, most in (
        ("inputs", node.input, schema.min_input, schema.max_input),
        ("outputs", node.output, schema.min_output, schema.max_output),
    ):
        if not least <= len(names) <= most:
            raise ModelError(f"{where}: {describe(node, index)} has {len(names)} {kind}, "
                             f"opset {version} wants {least if len(names) < least else most}")
    single = onnx.defs.OpSchema.FormalParameterOption.Single
    for i, (name, formal) in enumerate(zip(node.input, schema.inputs, strict=False)):
        if not name and formal.option == single:
            raise ModelError(f"{where}: {describe(node, index)} leaves out input {i} "
                             f"({formal.name}), which opset {version} requires")


def opset(proto: onnx.ModelProto) -> int | None:
    """Return the version of ONNX's own operators that the model imports, None if none."""
    versions = [entry.version for entry in proto.opset_import if entry.domain in ONNX_DOMAINS]
    return max(versions, default=None)


def _check_versions(proto: onnx.ModelProto, where: str) -> None:
    version = opset(proto)
    uses_onnx = any(node.domain in ONNX_DOMAINS for node in proto.graph.node)
    if version is None and uses_onnx:
        raise ModelError(f"{where}: unknown opset: the model imports no ONNX operators")
    if version is not None and version < OLDEST_OPSET and uses_onnx:
        raise ModelError(f"{where}: opset {version} is too old, {OLDEST_OPSET} is the oldest "
                         "supported; convert it with onnx.version_converter")
    if version is None:
        version = OLDEST_OPSET
    ir = proto.ir_version
    if ir < 1:
        raise ModelError(f"{where}: not an ONNX model: it has no IR version")
    if accepts(ir, version):
        return
    runtime = f"ONNX Runtime {_runtime_version()}"
    newest = next((n for n in range(min(version, _FAR), 0, -1) if accepts(min(ir, 8), n)), 0)
    if newest < version:
        raise ModelError(f"{where}: opset {version} is unknown: {runtime} accepts up to {newest}")
    newest = next((n for n in range(min(ir, _FAR), 0, -1) if accepts(n, version)), 0)
    raise ModelError(f"{where}: IR version {ir} is unknown: {runtime} accepts up to {newest}")


@functools.cache
def accepts(ir_version: int, version: int) -> bool:
    """True if the installed ONNX Runtime, asked, loads a model of this IR version and opset."""
    import onnxruntime

    helper, float_type = onnx.helper, onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])], "probe",
        [helper.make_tensor_value_info("x", float_type, [1])],
        [helper.make_tensor_value_info("y", float_type, [1])],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", version)])
    proto.ir_version = ir_version
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    try:
        onnxruntime.InferenceSession(proto.SerializeToString(), options,
                                     providers=["CPUExecutionProvider"])
    except Exception:  # ONNX Runtime has no common class of what it raises here
        return False
    return True


def _runtime_version() -> str:
    import onnxruntime

    return onnxruntime.__version__


def check_names(graph: onnx.GraphProto, outer: set[str], where: str) -> None:
    """Raise ModelError if a name is defined twice or not at all, or nodes wait for each other."""
    defined: dict[str, str] = {}
    for kind, names in (("input", [value.name for value in graph.input]),
                        ("initializer", [tensor.name for tensor in graph.initializer])):
        if len(set(names)) != len(names):
            name = next(name for name in names if names.count(name) > 1)
            raise ModelError(f"{where}: {kind} {name!r} is there twice")
    defined.update((name, "an input or initializer") for name in scope.given(graph))
    for i, node in enumerate(graph.node):
        for name in filter(None, node.output):
            if name in defined:
                raise ModelError(f"{where}: {describe(node, i)} writes {name!r}, "
                                 f"which is {defined[name]} already")
            defined[name] = f"written by {describe(node, i)}"
    known = outer | defined.keys()
    for i, node in enumerate(graph.node):
        for name in node.input:
            if name and name not in known:
                raise ModelError(f"{where}: {describe(node, i)} reads {name!r}, "
                                 "which nothing defines")
        for body in scope.subgraphs(node):
            check_names(body, known, where)
    for value in graph.output:
        if value.name not in known:
            raise ModelError(f"{where}: output {value.name!r} is defined by nothing")
    _, stuck = scope.sort_nodes(graph)
    if stuck:
        nodes = ", ".join(describe(graph.node[i], i) for i in stuck[:3])
        raise ModelError(f"{where}: the graph has a cycle through {nodes}")


def describe(node: onnx.NodeProto, index: int) -> str:
    """Return a node as messages name it: its name, or op_type and index if it has none."""
    name = node.name or f"{node.op_type}_{index}"
    return f"node {name!r} ({node.op_type})"
