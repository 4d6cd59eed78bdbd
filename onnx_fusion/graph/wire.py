"""Takes a serialized model apart without parsing it: the skeleton here, the bytes of big tensors
there.

onnx.load of a 436 MB model holds it in memory two to three times. Here the file is mapped, the
protobuf wire format (https://protobuf.dev/programming-guides/encoding) is walked down to the
initializers, and what is parsed is the same message without their payloads.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from onnx_fusion.errors import ModelError

DETACH_BYTES = 1024
"""Payloads above this leave the skeleton."""

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_MODEL_GRAPH = 7
_MODEL_FIELDS = frozenset((1, 2, 3, 4, 5, 6, 7, 8, 14, 20, 25, 26))
_GRAPH_INITIALIZER = 5
_TENSOR_NAME, _TENSOR_RAW = 8, 9
_TENSOR_PACKED = {4: 4, 10: 8}
"""float_data and double_data: packed, they are what raw_data would hold; by element size."""


@dataclasses.dataclass(frozen=True, slots=True)
class Payload:
    """Where the bytes of one initializer lie: `name`'s data is buffer[start:stop]."""

    name: str
    start: int
    stop: int


def split(buffer: memoryview, where: str) -> tuple[bytes, list[Payload]]:
    """Return the serialized model without its big initializers' data, and where each of those lies.

    Raises ModelError, naming `where`, if the bytes are cut off or are not a protobuf message.
    """
    payloads: list[Payload] = []
    skeleton = bytearray()
    for field, kind, start, body, stop in _fields(buffer, 0, len(buffer), where):
        if field == _MODEL_GRAPH and kind == _BYTES:
            graph = _split_graph(buffer, body, stop, where, payloads)
            skeleton += head(field, len(graph)) + graph
        else:
            skeleton += buffer[start:stop]
    return bytes(skeleton), payloads


def _split_graph(
    buffer: memoryview, start: int, stop: int, where: str, payloads: list[Payload]
) -> bytearray:
    graph = bytearray()
    for field, kind, begin, body, end in _fields(buffer, start, stop, where):
        if field == _GRAPH_INITIALIZER and kind == _BYTES and end - body > DETACH_BYTES:
            tensor = _split_tensor(buffer, body, end, where, payloads)
            graph += head(field, len(tensor)) + tensor
        else:
            graph += buffer[begin:end]
    return graph


def _split_tensor(
    buffer: memoryview, start: int, stop: int, where: str, payloads: list[Payload]
) -> bytearray:
    tensor = bytearray()
    name = ""
    found: tuple[int, int] | None = None
    for field, kind, begin, body, end in _fields(buffer, start, stop, where):
        unit = 1 if field == _TENSOR_RAW else _TENSOR_PACKED.get(field, 0)
        if kind == _BYTES and end - body > DETACH_BYTES and found is None and unit:
            if (end - body) % unit:
                raise ModelError(f"{where}: truncated: initializer {name!r} has half an element")
            found = body, end
            continue
        if field == _TENSOR_NAME and kind == _BYTES:
            name = bytes(buffer[body:end]).decode("utf-8", "replace")
        tensor += buffer[begin:end]
    if found is not None:
        payloads.append(Payload(name, *found))
    return tensor


def _fields(
    buffer: memoryview, start: int, stop: int, where: str
) -> Iterator[tuple[int, int, int, int, int]]:
    """Yield (field number, wire type, where its tag starts, where its content starts, where it
    ends)."""
    at = start
    while at < stop:
        begin = at
        key, at = _varint(buffer, at, stop, where)
        field, kind = key >> 3, key & 7
        body = at
        if kind == _VARINT:
            _, at = _varint(buffer, at, stop, where)
        elif kind == _FIXED64:
            at += 8
        elif kind == _FIXED32:
            at += 4
        elif kind == _BYTES:
            size, body = _varint(buffer, at, stop, where)
            at = body + size
        else:
            raise ModelError(f"{where}: not an ONNX model: no protobuf message at byte {begin}")
        if field == 0:
            raise ModelError(f"{where}: not an ONNX model: no protobuf message at byte {begin}")
        if at > stop:
            if start == 0 and field not in _MODEL_FIELDS:
                raise ModelError(f"{where}: not an ONNX model: it starts with no ModelProto")
            raise ModelError(f"{where}: truncated: field {field} at byte {begin} needs "
                             f"{at - stop} bytes more than there are")
        yield field, kind, begin, body, at


def _varint(buffer: memoryview, at: int, stop: int, where: str) -> tuple[int, int]:
    value = shift = 0
    begin = at
    while at < stop and shift < 70:
        byte = buffer[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    raise ModelError(f"{where}: truncated, or not an ONNX model: no number ends at byte {begin}")


def encode_varint(value: int) -> bytes:
    """Return `value` (not negative) as a protobuf varint."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def head(field: int, size: int) -> bytes:
    """Return the tag and length that stand before a field of `size` bytes."""
    return encode_varint(field << 3 | _BYTES) + encode_varint(size)


def copy_field(message: Message, field: FieldDescriptor, value: Any) -> None:
    """Set a field of `message` to `value`, which ListFields gave of another message of its type."""
    if isinstance(value, Message):
        getattr(message, field.name).CopyFrom(value)
    elif hasattr(value, "MergeFrom"):
        getattr(message, field.name).MergeFrom(value)
    elif isinstance(value, bytes):  # a text that is not UTF-8 comes as bytes, too
        message.MergeFromString(head(field.number, len(value)) + value)
    else:
        setattr(message, field.name, value)
