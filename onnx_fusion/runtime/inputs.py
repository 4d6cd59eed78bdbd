"""Inputs to run a model with: seeded random ones in ranges it can digest, or the user's."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

from onnx_fusion.errors import ModelError, OnnxFusionError

Inputs = dict[str, np.ndarray]

KEEPS_ELEMENTS = frozenset(
    ("Identity", "Cast", "Reshape", "Unsqueeze", "Squeeze", "Flatten", "Transpose", "Slice")
    + ("Where", "Clip", "Expand", "Concat", "Split")
)
"""Operators behind which an integer is still the same index."""

SPATIAL, SEQUENCE = 64, 16
"""Extents given to unknown dims: behind the channels of images and signals, and elsewhere."""


def read_proto(model: str | os.PathLike | onnx.ModelProto) -> onnx.ModelProto:
    """Return the model without its external data; raise ModelError if the file is not a model."""
    if isinstance(model, onnx.ModelProto):
        return model
    try:
        proto = onnx.load(model, load_external_data=False)
    except OSError as error:
        raise ModelError(f"{model}: cannot be read: {said(error)}") from None
    except Exception:
        raise ModelError(f"{model}: not an ONNX model") from None
    if not proto.ir_version or not proto.HasField("graph"):
        raise ModelError(f"{model}: not an ONNX model: it has no graph")
    return proto


def said(error: OSError) -> str:
    """Return what the system says about an error, as part of a line."""
    return (error.strerror or str(error)).lower()


def needed(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    """Return the graph inputs that have no default, in order."""
    given = {tensor.name for tensor in model.graph.initializer}
    given |= {tensor.values.name for tensor in model.graph.sparse_initializer}
    return [value for value in model.graph.input if value.name not in given]


def read_inputs(path: str | os.PathLike, model: str | os.PathLike | onnx.ModelProto) -> Inputs:
    """Return the model's inputs from an .npz that holds them as `<name>` or `in_<name>`.

    Other arrays are ignored. Raises OnnxFusionError if one is missing or of another type or rank.
    """
    try:
        with np.load(path) as file:
            arrays = {name: file[name] for name in file.files}
    except OSError as error:
        raise OnnxFusionError(f"{path}: cannot be read: {said(error)}") from None
    except (ValueError, zipfile.BadZipFile, AttributeError, TypeError, EOFError):
        raise OnnxFusionError(f"{path}: not an .npz file of plain arrays") from None
    found: Inputs = {}
    for value in needed(read_proto(model)):
        name = value.name
        array = arrays.get(name, arrays.get(f"in_{name}"))
        if array is None:
            has = ", ".join(arrays) or "nothing"
            raise OnnxFusionError(f"{path}: holds no array '{name}' or 'in_{name}'; it has {has}")
        dtype = element_type(value)
        if array.dtype != dtype and not (dtype.kind == "O" and array.dtype.kind in "US"):
            raise OnnxFusionError(
                f"{path}: array for input '{name}' is {array.dtype}; the model wants {dtype}"
            )
        shape = declared_shape(value)
        fits = len(shape) == array.ndim and all(
            not isinstance(want, int) or want < 0 or want == have
            for want, have in zip(shape, array.shape, strict=False)
        )
        if shape_known(value) and not fits:
            raise OnnxFusionError(
                f"{path}: array for input '{name}' has shape {list(array.shape)}; "
                f"the model wants {list(shape)}"
            )
        found[name] = array
    return found


def make_inputs(
    model: str | os.PathLike | onnx.ModelProto,
    *,
    seed: int = 0,
    dims: Mapping[str, int] | None = None,
    spatial: int = SPATIAL,
    sequence: int = SEQUENCE,
    middle: int | None = None,
) -> Inputs:
    """Return random inputs of the model's types and shapes; the same seed gives the same arrays.

    Floats are normal. An integer that becomes an index of Gather stays below the extent it
    indexes, a single one compared with constants is one of them, others are 0 or 1 (a mask, say)
    with a 1 at the start. A symbolic dim takes `dims[its name]`; else a leading one is 1, the
    channels are what the consuming convolution wants, `spatial` follows them, and others are
    `sequence`; `middle` replaces it between the first and the last dim.
    """
    proto = read_proto(model)
    uses = Uses(proto)
    symbols = dict(dims or {})
    rng = np.random.default_rng(seed)
    made: Inputs = {}
    for value in needed(proto):
        dtype = element_type(value)
        shape = concrete_shape(value, uses, symbols, (spatial, sequence, middle or sequence))
        if dtype.kind in "iu":
            made[value.name] = draw_integers(value.name, dtype, shape, uses, rng)
        elif dtype.kind == "b":
            made[value.name] = first_true(rng.integers(0, 2, shape).astype(bool))
        elif dtype.kind == "O":
            made[value.name] = rng.choice(np.array(["a", "b", "ab"], object), shape)
        else:
            made[value.name] = rng.standard_normal(shape, np.float32).astype(dtype)
    return made


class Uses:
    """Who reads which value, over all graphs of a model (a name means one value in them all)."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.weights = {tensor.name: tensor for tensor in model.graph.initializer}
        self.readers: dict[str, list[tuple[onnx.NodeProto, int]]] = {}
        for node in every_node(model.graph):
            for index, name in enumerate(node.input):
                self.readers.setdefault(name, []).append((node, index))
            if node.op_type in CONSTANTS:
                for item in node.attribute:
                    if item.name == "value":
                        self.weights[node.output[0]] = item.t

    def behind(self, name: str) -> Iterator[tuple[onnx.NodeProto, int]]:
        """Yield every reader of the value, also behind operators that only move its elements."""
        seen, todo = {name}, [name]
        while todo:
            for node, index in self.readers.get(todo.pop(), ()):
                yield node, index
                if node.op_type in KEEPS_ELEMENTS:
                    new = [output for output in node.output if output not in seen]
                    seen.update(new)
                    todo.extend(new)

    def constant(self, name: str) -> list[int | float]:
        """Return the first few elements of a constant kept in the model's file, or nothing."""
        tensor = self.weights.get(name)
        if tensor is None or tensor.data_location == onnx.TensorProto.EXTERNAL:
            return []
        if not any(field.name.endswith("_data") for field, _ in tensor.ListFields()):
            return []  # loaded: what is large stays in the file
        return numpy_helper.to_array(tensor).ravel()[:4].tolist()

    def channels(self, name: str) -> int | None:
        """Return the channels that a convolution reading the value wants."""
        for node, index in self.readers.get(name, ()):
            count = CHANNELS.get(node.op_type)
            weight = self.weights.get(node.input[1]) if len(node.input) > 1 else None
            if count and index == 0 and weight is not None:
                return count(weight.dims, attribute(node, "group", 1))
        return None


def indexed_extent(node: onnx.NodeProto, uses: Uses) -> list[int]:
    """Return the extent of Gather's data along its axis, if the data is constant."""
    data = uses.weights.get(node.input[0])
    return [] if data is None else [data.dims[attribute(node, "axis", 0)]]


CHANNELS = {
    "Conv": lambda dims, groups: dims[1] * groups,
    "ConvTranspose": lambda dims, groups: dims[0],
}
BOUNDS = {
    ("Gather", 1): indexed_extent,
    ("OneHot", 0): lambda node, uses: uses.constant(node.input[1])[:1],
}
COMPARES = frozenset(("Equal",))
CONSTANTS = frozenset(("Constant",))


def every_node(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """Yield the nodes of a graph and of all graphs inside it."""
    for node in graph.node:
        yield node
        for item in node.attribute:
            if item.type == onnx.AttributeProto.GRAPH:
                yield from every_node(item.g)
            for body in item.graphs:
                yield from every_node(body)


def element_type(value: onnx.ValueInfoProto) -> np.dtype:
    """Return the NumPy type of a tensor input; raise for sequences, maps and sparse tensors."""
    if not value.type.HasField("tensor_type"):
        kind = value.type.WhichOneof("value") or "of no type"
        raise OnnxFusionError(f"input '{value.name}' is {kind}; only tensors can be given")
    return helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)


def shape_known(value: onnx.ValueInfoProto) -> bool:
    """Return whether the input declares its rank."""
    return value.type.tensor_type.HasField("shape")


def declared_shape(value: onnx.ValueInfoProto) -> list[int | str | None]:
    """Return the dims as declared: extents, symbols, and None for nothing."""
    dims = value.type.tensor_type.shape.dim
    return [d.dim_value if d.HasField("dim_value") else d.dim_param or None for d in dims]


def concrete_shape(
    value: onnx.ValueInfoProto, uses: Uses, symbols: dict[str, int], sizes: tuple[int, int, int]
) -> tuple[int, ...]:
    """Return an extent for every dim; symbols met for the first time are added to `symbols`."""
    declared = declared_shape(value)
    spatial, sequence, middle = sizes
    image = 3 <= len(declared) <= 5
    channels = uses.channels(value.name) if image else None
    extents = []
    for axis, dim in enumerate(declared):
        if isinstance(dim, int) and dim > 0:
            extents.append(dim)
            continue
        if axis == 0:
            guess = 1
        elif axis == 1 and channels:
            guess = channels
        else:
            inner = sequence if axis == len(declared) - 1 else middle
            guess = spatial if channels or (image and len(declared) > 3) else inner
        extents.append(symbols.setdefault(dim, guess) if isinstance(dim, str) else guess)
    return tuple(extents)


def attribute(node: onnx.NodeProto, name: str, default: int) -> int:
    """Return an integer attribute."""
    return next((a.i for a in node.attribute if a.name == name), default)


def draw_integers(
    name: str, dtype: np.dtype, shape: tuple[int, ...], uses: Uses, rng: np.random.Generator
) -> np.ndarray:
    """Return integers that suit how the model uses the value."""
    readers = list(uses.behind(name))
    bounds = [
        bound
        for node, index in readers
        if (node.op_type, index) in BOUNDS
        for bound in BOUNDS[node.op_type, index](node, uses)
    ]
    constants = [
        constant
        for node, index in readers
        if node.op_type in COMPARES
        for constant in uses.constant(node.input[1 - index])
    ]
    if bounds:
        return rng.integers(0, max(1, int(min(bounds))), shape).astype(dtype)
    if constants and int(np.prod(shape)) == 1:
        return np.full(shape, constants[0]).astype(dtype)
    return first_true(rng.integers(0, 2, shape)).astype(dtype)


def first_true(array: np.ndarray) -> np.ndarray:
    """Return the array with ones at the start of its last axis: a mask that masks all gives NaN."""
    if array.ndim:
        array[..., :1] = 1
    return array


def npz_beside(path: str | os.PathLike) -> Path | None:
    """Return the .npz of the same stem beside a model (`net.a.onnx`: net.a.npz or net.npz)."""
    model = Path(path)
    for stem in (model.stem, model.name.split(".")[0]):
        candidate = model.with_name(f"{stem}.npz")
        if candidate.exists():
            return candidate
    return None
