"""The native library: where it is, what it needs, what it shows; and sessions that register it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from onnx_fusion.errors import LibraryError, ModelError
from onnx_fusion.runtime.library import get_library_path
from onnx_fusion.runtime.session import NAMES, count_names, session

PROGRAM = """tile_program 1
input x0 f32[N] row
output y0 f32[N] row
stage i: N
%0 = load x0 (i)
%1 = neg %0
store y0 (i) %1
"""


def chain(numbers: list[int | None], *, functions: bool = True) -> onnx.ModelProto:
    """Return Neg after Neg, fused with these numbers; None is the op type without a number."""
    types = ["FusedRegion" if k is None else f"FusedRegion_{k}" for k in numbers]
    names = ["x", *(f"v{i}" for i in range(1, len(types))), "y"]
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("onnx_fusion", 1)]
    nodes = [
        helper.make_node(t, [a], [b], name=b, domain="onnx_fusion", program=PROGRAM)
        for t, a, b in zip(types, names, names[1:], strict=False)
    ]
    bodies = [
        helper.make_function(
            "onnx_fusion", t, ["a"], ["b"], [helper.make_node("Neg", ["a"], ["b"])], opsets[:1]
        )
        for t in dict.fromkeys(types)
        if functions
    ]
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N"]) for n in "xy")
    graph = helper.make_graph(nodes, "chain", [x], [y])
    return helper.make_model(graph, opset_imports=opsets, functions=bodies, ir_version=8)


def test_library_is_found_and_named_by_the_variable(monkeypatch, tmp_path):
    path = get_library_path()
    copy = tmp_path / "other.so"
    shutil.copy(path, copy)
    monkeypatch.setenv("ONNX_FUSION_LIBRARY", str(copy))
    assert get_library_path() == str(copy)
    monkeypatch.setenv("ONNX_FUSION_LIBRARY", str(tmp_path / "none.so"))
    with pytest.raises(LibraryError, match=r"none\.so: no such file; ONNX_FUSION_LIBRARY must"):
        get_library_path()


def test_needs_nothing_but_the_c_and_cxx_runtime():
    out = subprocess.run(["ldd", get_library_path()], capture_output=True, text=True, check=True)
    names = {line.split()[0].split("/")[-1].split(".so")[0] for line in out.stdout.splitlines()}
    system = {"libc", "libm", "libstdc++", "libgcc_s", "libpthread", "libdl", "linux-vdso"}
    assert {n for n in names if not n.startswith("ld-linux")} <= system


def test_shows_its_entry_point_only():
    out = subprocess.run(
        ["nm", "-D", "--defined-only", get_library_path()],
        capture_output=True,
        text=True,
        check=True,
    )
    strong = [line.split()[2] for line in out.stdout.splitlines() if line.split()[1] == "T"]
    assert "RegisterCustomOps" in strong
    assert [
        n for n in strong if n != "RegisterCustomOps" and not n.startswith("onnx_fusion_")
    ] == []


@pytest.mark.parametrize("as_file", [False, True])
def test_names_are_counted_without_reading_the_graph(as_file, tmp_path):
    cases = [
        (chain([0]), 1),
        (chain([3, 0, 3]), 4),
        (chain([None], functions=False), None),
        (helper.make_model(chain([0]).graph, opset_imports=[helper.make_opsetid("", 17)]), 0),
    ]
    for model, expected in cases:
        source: onnx.ModelProto | Path = model
        if as_file:
            source = tmp_path / "model.onnx"
            onnx.save(model, source)
        assert count_names(source) == expected


def test_a_file_that_is_no_model_is_an_error_of_one_line(tmp_path):
    path = tmp_path / "bad.onnx"
    for content in (b"", b"\xff" * 40, b"\x3a\xff\xff\xff\xff\x0f", bytes(100)):
        path.write_bytes(content)
        with pytest.raises(ModelError, match=r"^bad\.onnx: [^\n]*$"):
            session(path)
    with pytest.raises(ModelError, match=r"^none\.onnx: "):
        session(tmp_path / "none.onnx")


def test_more_names_are_registered_for_a_model_that_has_them():
    x = np.array([1, -2], np.float32)
    model = chain([0, 700])
    assert np.array_equal(session(model).run(None, {"x": x})[0], x)
    model.functions[1].node[0].op_type = "Abs"  # what runs instead of an unregistered kernel
    plain = onnxruntime.SessionOptions()
    plain.register_custom_ops_library(get_library_path())
    small = onnxruntime.InferenceSession(
        model.SerializeToString(), plain, providers=["CPUExecutionProvider"]
    )
    assert np.array_equal(small.run(None, {"x": x})[0], np.abs(x))
    assert np.array_equal(session(model).run(None, {"x": x})[0], x)
    assert np.array_equal(session(chain([0, 5000])).run(None, {"x": x})[0], x)


def test_options_may_be_used_again():
    options = onnxruntime.SessionOptions()
    x = np.array([1, -2], np.float32)
    for numbers in ([2], [0, 1]):
        got = session(chain(numbers), options=options).run(None, {"x": x})[0]
        assert np.array_equal(got, x * (-1) ** len(numbers))
    with pytest.raises(LibraryError, match="have 3 op types of onnx_fusion, the model needs 5"):
        session(chain([4]), options=options)


def test_a_wrong_number_of_names_is_refused():
    for text in ("x", "-1", "1025", ""):
        options = onnxruntime.SessionOptions()
        options.add_session_config_entry(NAMES, text)
        with pytest.raises(Exception, match="must be a number from 0 to 1024"):
            options.register_custom_ops_library(get_library_path())
