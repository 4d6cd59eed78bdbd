"""ONNX Runtime sessions with the native library registered."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import onnx
import onnxruntime

from onnx_fusion.emit.naming import DOMAIN, REGISTERED
from onnx_fusion.errors import LibraryError, ModelError
from onnx_fusion.runtime.library import find_nvrtc, get_library_path

NAMES = "onnx_fusion.names"
CUDA = "onnx_fusion.cuda"
CUDA_PROVIDER = "onnx_fusion.cuda_provider"
NVRTC = "onnx_fusion.nvrtc"
PTX = "onnx_fusion.cuda_ptx"
"""Session config entries that the library reads (native/ort/register.cc, docs/cuda.md)."""
MOST_NAMES = 1024
Provider = str | tuple[str, dict]
"""An execution provider's name, perhaps with its options."""
_PROTOBUF_LIMIT = 2**31 - 1
_NO_MODEL = ("Protobuf parsing failed.", "No graph was found in the protobuf.")


def session(
    path_or_model: str | os.PathLike[str] | onnx.ModelProto,
    *,
    library: bool = True,
    threads: int | None = None,
    options: onnxruntime.SessionOptions | None = None,
    providers: Sequence[Provider] | None = None,
    trust_ptx: bool = False,
) -> onnxruntime.InferenceSession:
    """Return a session for a model, optimized or not.

    With `library` the native library's kernels run the fused nodes; without it their portable
    functions do. `threads` is the number of threads inside an operator. `options` are changed: the
    library is registered on them, once however often they are used. `providers` is the CPU unless
    given; with CUDAExecutionProvider among them, a fused node that ONNX Runtime does not give to it
    is an error. PTX in the model is code that runs on the device as it is, whatever the model says
    it does: with `trust_ptx` it is used, otherwise kernels are compiled from the programs. Raises
    ModelError if ONNX Runtime refuses the model, LibraryError if it refuses the library.
    """
    if options is None:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # what it would print is in the exception
    if threads is not None:
        options.intra_op_num_threads = threads
    chosen = list(providers) if providers is not None else ["CPUExecutionProvider"]
    if library:
        _register(options, path_or_model, _wants_cuda(options, chosen), trust_ptx)
    if not isinstance(path_or_model, onnx.ModelProto):
        path = os.fspath(path_or_model)
        _check_file(path)
        return _create(path, Path(path).name, options, chosen)
    label = path_or_model.graph.name or "model"
    if path_or_model.ByteSize() <= _PROTOBUF_LIMIT:
        return _create(path_or_model.SerializeToString(), label, options, chosen)
    # ONNX Runtime maps the weights' file, so it may go once the session is there.
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "model.onnx")
        copy = onnx.ModelProto()
        copy.CopyFrom(path_or_model)
        onnx.save(copy, path, save_as_external_data=True, location="weights.bin")
        return _create(path, label, options, chosen)


def _check_file(path: str) -> None:
    """Raise ModelError if there is nothing to read."""
    try:
        with open(path, "rb"):
            return
    except OSError as error:
        said = (error.strerror or str(error)).lower()
        raise ModelError(f"{Path(path).name or path}: cannot be read: {said}") from None


def _create(
    source: str | bytes,
    label: str,
    options: onnxruntime.SessionOptions,
    providers: list[Provider],
) -> onnxruntime.InferenceSession:
    try:
        return onnxruntime.InferenceSession(source, options, providers=providers)
    except Exception as error:  # ONNX Runtime's exceptions have no public base class
        said = _first_line(error)
        if said.endswith(_NO_MODEL):
            said = "not an ONNX model"
        raise ModelError(f"{label}: {said}") from error


def _register(
    options: onnxruntime.SessionOptions,
    model: str | os.PathLike[str] | onnx.ModelProto,
    cuda: bool,
    trust_ptx: bool,
) -> None:
    wanted = count_names(model)
    if cuda and wanted != 0:
        _need_provider(options)
    names = REGISTERED if wanted is None else min(wanted, MOST_NAMES)
    path = get_library_path()
    try:
        has = int(options.get_session_config_entry(NAMES))
    except RuntimeError:
        options.add_session_config_entry(NAMES, str(names))
        options.add_session_config_entry(CUDA, str(int(cuda)))
        if trust_ptx:
            options.add_session_config_entry(PTX, "1")
        nvrtc = find_nvrtc() if cuda and _entry(options, NVRTC) is None else None
        if nvrtc is not None:
            options.add_session_config_entry(NVRTC, nvrtc)
        try:
            options.register_custom_ops_library(path)
        except Exception as error:
            raise LibraryError(f"{path}: {_first_line(error)}") from error
        return
    if _entry(options, CUDA) != str(int(cuda)):
        raise LibraryError(
            f"these session options were made {'without' if cuda else 'with'} CUDA kernels; "
            "use new ones"
        )
    if cuda and trust_ptx and _entry(options, PTX) != "1":
        raise LibraryError("these session options were made without trust_ptx; use new ones")
    if has < names:
        raise LibraryError(
            f"these session options have {has} op types of onnx_fusion, the model needs {names}; "
            "use new ones"
        )


def _wants_cuda(options: onnxruntime.SessionOptions, providers: Sequence[Provider]) -> bool:
    names = [one if isinstance(one, str) else one[0] for one in providers]
    return _cuda_provider(options) in names


def _cuda_provider(options: onnxruntime.SessionOptions) -> str:
    return _entry(options, CUDA_PROVIDER) or "CUDAExecutionProvider"


def _need_provider(options: onnxruntime.SessionOptions) -> None:
    name, there = _cuda_provider(options), onnxruntime.get_available_providers()
    if name not in there:
        raise LibraryError(
            f"onnxruntime {onnxruntime.__version__} has no {name}, only {', '.join(there)}; "
            "install onnxruntime-gpu in its place"
        )


def _entry(options: onnxruntime.SessionOptions, name: str) -> str | None:
    try:
        return options.get_session_config_entry(name)
    except RuntimeError:
        return None


def _first_line(error: Exception) -> str:
    # "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : what is wrong"
    line = str(error).strip().split("\n", 1)[0]
    return re.sub(r"^\[ONNXRuntimeError\] : \d+ : [A-Z_]+ : ", "", line)


def count_names(model: str | os.PathLike[str] | onnx.ModelProto) -> int | None:
    """Return how many numbered op types the library must register for a model's fused nodes.

    None if the model does not tell: fused nodes without functions, or a file that is not ONNX.
    """
    if isinstance(model, onnx.ModelProto):
        domains = [entry.domain for entry in model.opset_import]
        functions = [(f.domain, f.name) for f in model.functions]
    else:
        try:
            domains, functions = _read_names(os.fspath(model))
        except (OSError, ValueError):
            return None
    if DOMAIN not in domains:
        return 0
    numbers = [name.rpartition("_")[2] for domain, name in functions if domain == DOMAIN]
    return max((int(n) + 1 for n in numbers if n.isdigit()), default=None)


def _read_names(path: str) -> tuple[list[str], list[tuple[str, str]]]:
    # The graph may be gigabytes: it is stepped over, not parsed.
    domains: list[str] = []
    functions: list[tuple[str, str]] = []
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        for field, length in _fields(file, size):
            if field == onnx.ModelProto.OPSET_IMPORT_FIELD_NUMBER:
                domains.append(_parse(onnx.OperatorSetIdProto(), file.read(length)).domain)
            elif field == onnx.ModelProto.FUNCTIONS_FIELD_NUMBER:
                function = _parse(onnx.FunctionProto(), file.read(length))
                functions.append((function.domain, function.name))
            else:
                file.seek(length, os.SEEK_CUR)
    return domains, functions


def _parse(message: onnx.FunctionProto, data: bytes) -> onnx.FunctionProto:
    try:
        message.ParseFromString(data)
    except Exception as error:
        raise ValueError(str(error)) from error
    return message


def _fields(file: BinaryIO, size: int) -> Iterator[tuple[int, int]]:
    # Each field of a protobuf message: its number and its length; the caller reads or skips that.
    while file.tell() < size:
        key = _varint(file)
        kind = key & 7
        if kind == 0:
            _varint(file)
            continue
        length = {1: 8, 5: 4}.get(kind)
        if kind == 2:
            length = _varint(file)
        if length is None or file.tell() + length > size:
            raise ValueError("not a protobuf message")
        yield key >> 3, length


def _varint(file: BinaryIO) -> int:
    value = 0
    for shift in range(0, 70, 7):
        byte = file.read(1)
        if not byte:
            break
        value |= (byte[0] & 0x7F) << shift
        if byte[0] < 0x80:
            return value
    raise ValueError("not a protobuf message")
