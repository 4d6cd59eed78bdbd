"""Reads a model: a small ModelProto without the big initializers' bytes, and handles on those."""

from __future__ import annotations

import dataclasses
import mmap
import os
import pathlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

import onnx
from google.protobuf.message import DecodeError

from onnx_fusion.errors import ModelError
from onnx_fusion.graph import check, scope, wire
from onnx_fusion.graph.weights import Weight, is_fixed_size, raw_size

if TYPE_CHECKING:
    from onnx_fusion.graph.model import Around

DEEPEST = 31
"""How many subgraphs can be inside each other: protobuf reads 100 messages deep, here and in ONNX
Runtime, and a level takes three."""
_TOO_DEEP = f"subgraphs are nested more than {DEEPEST} deep, which protobuf does not read"


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Model:
    """A model as it was read. Nobody changes it.

    `proto` is complete but for the initializers in `weights` (by name, of the main graph), which
    have their name, type and dims and no data. `path` is the file, None for a proto; `where` names
    the model in messages; `external` says that the input kept data in other files. A body is taken
    for a model of its own, with what is `around` it.
    """

    proto: onnx.ModelProto
    weights: dict[str, Weight]
    path: str | None
    where: str
    external: bool
    around: Around | None = None


def load(source: str | os.PathLike[str] | onnx.ModelProto, base_dir: str | None = None) -> Model:
    """Return the model in a file, or in a proto (which is not changed, and must not change later).

    A file is mapped, not read: keep it as it is until the result is written. External data is
    looked for beside the file, for a proto in `base_dir`. Raises ModelError, one line, for what is
    no model, is cut off, contradicts itself, or is outside what the installed ONNX Runtime accepts.
    """
    if isinstance(source, onnx.ModelProto):
        where, path = "the model", None
        proto, weights = _split_proto(source)
    else:
        where = path = os.fspath(source)
        base_dir = os.path.dirname(os.path.abspath(path))
        proto, weights = _split_file(path)
    external = False
    mappings: dict[str, memoryview] = {}
    for tensor in proto.graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            external = True
            weights[tensor.name] = _external(tensor, base_dir, where, mappings)
            _drop_location(tensor)
        elif tensor.name in weights:
            _check_payload(tensor, weights[tensor.name], where)
        else:
            _check_small(tensor, where)
    for tensor in _inner_tensors(proto):
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            external = True
            data = bytes(_external(tensor, base_dir, where, mappings).raw())
            _drop_location(tensor)
            tensor.raw_data = data
        else:
            _check_small(tensor, where)
    check.check(proto, where)
    return Model(proto, weights, path, where, external)


def _split_file(path: str) -> tuple[onnx.ModelProto, dict[str, Weight]]:
    buffer = _map(path, path)
    skeleton, payloads = wire.split(buffer, path)
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(skeleton)
    except (DecodeError, UnicodeDecodeError) as error:
        raise ModelError(f"{path}: not an ONNX model: {_line(error)}") from None
    tensors = {tensor.name: tensor for tensor in proto.graph.initializer}
    weights = {}
    for payload in payloads:
        if payload.name in weights or payload.name not in tensors:
            raise ModelError(f"{path}: initializer {payload.name!r} is there twice")
        tensor = tensors[payload.name]
        view = buffer[payload.start : payload.stop]
        weights[payload.name] = Weight(tensor.data_type, tuple(tensor.dims), len(view),
                                       lambda view=view: view, path)
    return proto, weights


def _split_proto(source: onnx.ModelProto) -> tuple[onnx.ModelProto, dict[str, Weight]]:
    proto = onnx.ModelProto()
    for field, value in source.ListFields():
        if field.name != "graph":
            wire.copy_field(proto, field, value)
    weights: dict[str, Weight] = {}
    if not source.HasField("graph"):
        return proto, weights
    if scope.depth(source.graph) > DEEPEST:
        raise ModelError(f"the model: {_TOO_DEEP}")
    proto.graph.SetInParent()
    for field, value in source.graph.ListFields():
        if field.name != "initializer":
            wire.copy_field(proto.graph, field, value)
    for tensor in source.graph.initializer:
        copy = proto.graph.initializer.add()
        big = tensor.ByteSize() > wire.DETACH_BYTES and is_fixed_size(tensor.data_type)
        if not big or tensor.data_location == onnx.TensorProto.EXTERNAL:
            copy.CopyFrom(tensor)
            continue
        for field, value in tensor.ListFields():
            if not field.name.endswith("_data"):
                wire.copy_field(copy, field, value)
        if tensor.name in weights:
            raise ModelError(f"the model: initializer {tensor.name!r} is there twice")
        weights[tensor.name] = Weight.of_tensor(tensor)
    return proto, weights


def _check_payload(tensor: onnx.TensorProto, weight: Weight, where: str) -> None:
    name = f"{where}: initializer {tensor.name!r}"
    if tensor.HasField("raw_data") or tensor.float_data or tensor.double_data:
        raise ModelError(f"{name} has its data twice")
    if not is_fixed_size(tensor.data_type):
        raise ModelError(f"{name}: type {tensor.data_type} has no raw data")
    if any(dim < 0 for dim in tensor.dims):
        raise ModelError(f"{name}: negative dimension in {list(tensor.dims)}")
    need = raw_size(tensor.data_type, weight.shape)
    if weight.nbytes != need:
        raise ModelError(f"{name} has {weight.nbytes} bytes of data, "
                         f"but its shape {list(tensor.dims)} needs {need}")


def _check_small(tensor: onnx.TensorProto, where: str) -> None:
    """Raise ModelError if a tensor's own data does not fit its type and shape."""
    if not is_fixed_size(tensor.data_type):
        return
    try:
        fits = all(dim >= 0 for dim in tensor.dims) and (
            len(Weight.of_tensor(tensor).raw()) == raw_size(tensor.data_type, tuple(tensor.dims)))
    except (ValueError, TypeError, OverflowError):
        fits = False
    if not fits:
        raise ModelError(f"{where}: tensor {tensor.name!r} has data that does not fit its shape "
                         f"{list(tensor.dims)}")


def _external(
    tensor: onnx.TensorProto, base_dir: str | None, where: str, mappings: dict[str, memoryview]
) -> Weight:
    """Return a handle on a tensor's external data (ONNX spec, ExternalData.md), checked."""
    name = f"{where}: initializer {tensor.name!r}"
    info = {entry.key: entry.value for entry in tensor.external_data}
    location = info.get("location", "")
    if base_dir is None:
        raise ModelError(f"{name} lies in {location!r}: give its folder as base_dir")
    path = _inside(base_dir, location, name)
    if path not in mappings:
        mappings[path] = _map(path, f"{name}: external data")
    if not is_fixed_size(tensor.data_type) or any(dim < 0 for dim in tensor.dims):
        raise ModelError(f"{name}: no external data can have this type or shape")
    shape = tuple(tensor.dims)
    need = raw_size(tensor.data_type, shape)
    try:
        offset = int(info.get("offset", 0))
        length = int(info.get("length", need))
    except ValueError:
        raise ModelError(f"{name}: offset and length of external data must be numbers") from None
    size = len(mappings[path])
    if offset < 0 or length != need or offset + length > size:
        raise ModelError(f"{name}: external data needs {need} bytes; offset {offset} and length "
                         f"{length} do not give them in {location!r} of {size} bytes")
    view = mappings[path][offset : offset + length]
    return Weight(tensor.data_type, shape, need, lambda: view, path)


def _inside(base_dir: str, location: str, name: str) -> str:
    """Return the path of `location`, which must not lead out of `base_dir`."""
    parts = pathlib.PurePosixPath(location.replace("\\", "/")).parts
    if not parts or os.path.isabs(location) or ".." in parts or "\0" in location:
        raise ModelError(f"{name}: external data {location!r} is no path inside the model's folder")
    base = os.path.realpath(base_dir)
    path = os.path.realpath(os.path.join(base, *parts))
    if os.path.commonpath([base, path]) != base:
        raise ModelError(f"{name}: external data {location!r} leads out of the model's folder")
    if not os.path.isfile(path):
        raise ModelError(f"{name}: external data {location!r} is missing in {base_dir}")
    return path


def _drop_location(tensor: onnx.TensorProto) -> None:
    tensor.ClearField("external_data")
    tensor.ClearField("data_location")


def _map(path: str, where: str) -> memoryview:
    try:
        with open(path, "rb") as file:
            if os.fstat(file.fileno()).st_size == 0:
                return memoryview(b"")
            return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ModelError(f"{where}: cannot be read: {reason.lower()}") from None


def _inner_tensors(proto: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Yield every tensor in attributes and subgraphs."""
    nodes = [*proto.graph.node, *(node for function in proto.functions for node in function.node)]
    while nodes:
        for attribute in nodes.pop().attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            for graph in (attribute.g, *attribute.graphs):
                yield from graph.initializer
                nodes.extend(graph.node)


def _line(error: Exception) -> str:
    if "MaxDepth" in str(error):
        return _TOO_DEEP
    return str(error).splitlines()[0] if str(error) else type(error).__name__
