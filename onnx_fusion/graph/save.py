"""Writes a model, one tensor in memory at a time, and all or nothing."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from typing import BinaryIO

import onnx

from onnx_fusion.errors import ModelError
from onnx_fusion.graph import wire
from onnx_fusion.graph.weights import Weight

LARGEST = (1 << 31) - 1
"""Bytes in the largest message that protobuf reads."""
ALIGNMENT = 4096
"""External tensors start at multiples of this, so that readers can map each one."""
WORTH_BYTES = 1 << 16
"""Readers open and map the file for each tensor; smaller ones stay in the model where they can."""
_CHUNK = 1 << 24
_GRAPH, _INITIALIZER, _RAW = 7, 5, 9


def save(skeleton: onnx.ModelProto, weights: Mapping[str, Weight], path: str | os.PathLike[str], *,
         external: bool | None = None, home: str | os.PathLike[str] | None = None) -> list[str]:
    """Write the model to `path` and return the paths written; the file appears whole or not at all.

    Initializers of `skeleton` that have no data of their own get it from `weights`. With
    `external`, and unless it is False if the file would be over 2 GB, the data of those goes to a
    second file, `path` + ".data", beside it; of those above 64 KiB only, if the rest is below 2 GB.
    Its name has a number if a weight still lies in the file of that name beside `home`, where both
    files will be moved to (`path`, unless given). Equal arguments give equal bytes. Raises
    ModelError if a file cannot be written; nothing is left behind then, nor after an interrupt.
    """
    path = os.fspath(path)
    small = _inline_size(skeleton, weights) <= LARGEST
    if external or (external is None and not small):
        return _save_external(skeleton, weights, path, os.fspath(home or path))
    if not small:
        raise ModelError(f"{path}: over 2 GB, too much for a single file")
    with _replacing(path) as file:
        _write_model(file, skeleton, weights)
    return [path]


def copy(source: str | os.PathLike[str], path: str | os.PathLike[str]) -> None:
    """Write the bytes of `source` to `path`, all or nothing; raise ModelError if that fails."""
    source = os.fspath(source)
    with _replacing(os.fspath(path)) as target, open(source, "rb") as file:
        shutil.copyfileobj(file, target, _CHUNK)


def to_proto(skeleton: onnx.ModelProto, weights: Mapping[str, Weight]) -> onnx.ModelProto:
    """Return the whole model in memory. Raises ModelError if it is over 2 GB."""
    if _inline_size(skeleton, weights) > LARGEST:
        raise ModelError("the model is over 2 GB, too much for a ModelProto; write it to a file")
    proto = onnx.ModelProto()
    proto.CopyFrom(skeleton)
    for tensor in proto.graph.initializer:
        if tensor.name in weights and _has_no_data(tensor):
            tensor.raw_data = bytes(weights[tensor.name].raw())
    return proto


def _has_no_data(tensor: onnx.TensorProto) -> bool:
    fields = {field.name for field, _ in tensor.ListFields()}
    return not any(name.endswith("_data") for name in fields)


def _inline_size(skeleton: onnx.ModelProto, weights: Mapping[str, Weight]) -> int:
    sizes = (weights[tensor.name].nbytes + 16 for tensor in skeleton.graph.initializer
             if tensor.name in weights and _has_no_data(tensor))
    return skeleton.ByteSize() + sum(sizes) + 64


def _save_external(
    skeleton: onnx.ModelProto, weights: Mapping[str, Weight], path: str, home: str
) -> list[str]:
    name = os.path.basename(_data_path(home, weights))
    data_path = os.path.join(os.path.dirname(path), name)
    proto = onnx.ModelProto()
    proto.CopyFrom(skeleton)
    able = [tensor for tensor in proto.graph.initializer if tensor.name in weights
            and weights[tensor.name].nbytes > wire.DETACH_BYTES and _has_no_data(tensor)]
    moved = [tensor for tensor in able if weights[tensor.name].nbytes > WORTH_BYTES]
    if not moved or _inline_size(skeleton, _without(weights, moved)) > LARGEST:
        moved = able
    with contextlib.ExitStack() as files:
        model_file = files.enter_context(_replacing(path))
        data_file = files.enter_context(_replacing(data_path))
        offset = 0
        for tensor in moved:
            weight = weights[tensor.name]
            padding = -offset % ALIGNMENT
            data_file.write(bytes(padding))
            offset += padding
            tensor.data_location = onnx.TensorProto.EXTERNAL
            for key, entry in (("location", name), ("offset", offset),
                               ("length", weight.nbytes)):
                tensor.external_data.add(key=key, value=str(entry))
            _write_bytes(data_file, weight.raw())
            offset += weight.nbytes
        rest = _without(weights, moved)
        if _inline_size(proto, rest) > LARGEST:
            raise ModelError(f"{path}: over 2 GB even without its weights, which ONNX cannot hold")
        _write_model(model_file, proto, rest)
    return [path, data_path]


def _without(weights: Mapping[str, Weight], moved: list[onnx.TensorProto]) -> dict[str, Weight]:
    names = {tensor.name for tensor in moved}
    return {name: weight for name, weight in weights.items() if name not in names}


def _data_path(path: str, weights: Mapping[str, Weight]) -> str:
    """Return where external data goes: a file that no weight is read from."""
    sources = {os.path.realpath(weight.path) for weight in weights.values() if weight.path}
    count, data_path = 0, path + ".data"
    while os.path.realpath(data_path) in sources:
        count += 1
        data_path = f"{path}.{count}.data"
    return data_path


def _write_model(file: BinaryIO, skeleton: onnx.ModelProto, weights: Mapping[str, Weight]) -> None:
    model, graph = onnx.ModelProto(), onnx.GraphProto()
    for field, value in skeleton.ListFields():
        if field.name != "graph":
            wire.copy_field(model, field, value)
    for field, value in skeleton.graph.ListFields():
        if field.name != "initializer":
            wire.copy_field(graph, field, value)
    rest = graph.SerializeToString(deterministic=True)
    pieces = [(tensor, _raw_head(tensor, weights)) for tensor in skeleton.graph.initializer]
    sizes = []
    for tensor, raw_head in pieces:
        size = tensor.ByteSize()
        if raw_head:
            size += len(raw_head) + weights[tensor.name].nbytes
        sizes.append(size)
    total = len(rest) + sum(len(wire.head(_INITIALIZER, size)) + size for size in sizes)
    file.write(model.SerializeToString(deterministic=True))
    file.write(wire.head(_GRAPH, total))
    file.write(rest)
    for (tensor, raw_head), size in zip(pieces, sizes, strict=True):
        file.write(wire.head(_INITIALIZER, size))
        file.write(tensor.SerializeToString(deterministic=True))
        if raw_head:
            file.write(raw_head)
            _write_bytes(file, weights[tensor.name].raw())


def _raw_head(tensor: onnx.TensorProto, weights: Mapping[str, Weight]) -> bytes:
    """Return what stands before a tensor's bytes if they come from `weights`, else b""."""
    if tensor.name not in weights or not _has_no_data(tensor):
        return b""
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        return b""
    return wire.head(_RAW, weights[tensor.name].nbytes)


def _write_bytes(file: BinaryIO, data: memoryview) -> None:
    for start in range(0, len(data), _CHUNK):
        file.write(data[start : start + _CHUNK])


@contextlib.contextmanager
def _replacing(path: str) -> Iterator[BinaryIO]:
    """Give a new file that takes the place of `path` if the block ends well, else vanishes."""
    folder = os.path.dirname(os.path.abspath(path))
    if os.path.exists(path) and not os.path.isfile(path):
        what = "a directory" if os.path.isdir(path) else "no regular file"
        raise ModelError(f"{path}: cannot be written: is {what}")
    temporary = os.path.join(folder, f".{os.path.basename(path)}.{secrets.token_hex(8)}.tmp")
    try:
        with open(temporary, "xb", buffering=1 << 20) as file:
            yield file
        os.replace(temporary, path)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise ModelError(f"{path}: cannot be written: {reason}") from None
    finally:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            os.unlink(temporary)
