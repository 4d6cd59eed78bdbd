"""Reading: what is detached is what onnx reads; whatever is wrong is one ModelError line."""

import os
import random
import tracemalloc

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnx_fusion.errors import ModelError
from onnx_fusion.graph.load import load
from onnx_fusion.graph.weights import Weight

R = np.random.default_rng(0)


def one_node(initializers, op="Identity", opset=13, ir=8, **attrs):
    """Return a model that copies x and carries these initializers."""
    graph = helper.make_graph(
        [helper.make_node(op, ["x"], ["y"], name="n", **attrs)], "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 4])], list(initializers))
    return helper.make_model(graph, ir_version=ir, opset_imports=[helper.make_opsetid("", opset)],
                             producer_name="test")


TYPES = [TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.INT64, TensorProto.INT8,
         TensorProto.BOOL, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.UINT32,
         TensorProto.INT4, TensorProto.FLOAT8E4M3FN, TensorProto.COMPLEX64]


def tensors():
    """Return big and small tensors of many types, as raw data and in typed fields."""
    for code in TYPES:
        dtype = helper.tensor_dtype_to_np_dtype(code)
        for size in (3, 4096):
            values = R.integers(0, 2, (size,)).astype(np.float32).astype(dtype)
            name = TensorProto.DataType.Name(code)
            yield numpy_helper.from_array(values, f"raw_{name}_{size}")
            if code not in (TensorProto.COMPLEX64, TensorProto.FLOAT8E4M3FN):
                yield helper.make_tensor(f"typed_{name}_{size}", code, (size,), values.tolist())


def same(weight, tensor):
    want = numpy_helper.to_array(tensor)
    got = weight.array()
    if weight.code == TensorProto.BFLOAT16:
        want = want.view(np.uint16)
    return got.dtype == want.dtype and np.array_equal(got, want) and weight.shape == want.shape


@pytest.mark.parametrize("as_file", [True, False])
def test_detached_data_is_what_onnx_reads(tmp_path, as_file):
    proto = one_node(tensors())
    before = proto.SerializeToString(deterministic=True)
    path = tmp_path / "m.onnx"
    onnx.save(proto, path)
    model = load(path if as_file else proto)
    assert proto.SerializeToString(deterministic=True) == before
    skeletons = model.proto.graph.initializer
    for tensor, skeleton in zip(proto.graph.initializer, skeletons, strict=True):
        assert (skeleton.name, skeleton.data_type, skeleton.dims) == (
            tensor.name, tensor.data_type, tensor.dims)
        if tensor.name in model.weights:
            assert skeleton.ByteSize() < 100
            assert same(model.weights[tensor.name], tensor)
        else:
            assert skeleton == tensor
    big = {t.name for t in proto.graph.initializer if t.name.startswith("raw") and
           len(t.raw_data) > 1024}
    assert big <= model.weights.keys()
    assert {"typed_FLOAT_4096", "typed_DOUBLE_4096"} <= model.weights.keys()


def test_arrays_of_weights_are_views_that_cannot_be_written(tmp_path):
    onnx.save(one_node([numpy_helper.from_array(np.ones((999,), "f4"), "w")]), tmp_path / "m.onnx")
    array = load(tmp_path / "m.onnx").weights["w"].array()
    assert not array.flags.owndata and not array.flags.writeable


def test_loading_holds_no_copy_of_the_weights(tmp_path):
    onnx.save(one_node([numpy_helper.from_array(np.ones((1 << 23,), "f4"), "w")]), tmp_path / "m")
    load(tmp_path / "m")
    tracemalloc.start()
    model = load(tmp_path / "m")
    assert model.weights["w"].nbytes == 1 << 25
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


def test_weight_of_array_and_tensor():
    array = np.arange(6, dtype="i4").reshape(2, 3).T
    assert np.array_equal(Weight.of(array).array(), array)
    assert Weight.of(np.float32(2.0).reshape(())).array().shape == ()
    assert Weight.of(np.zeros((0, 3), "f4")).array().shape == (0, 3)
    with pytest.raises(TypeError):
        Weight.of(np.array(["a"]))


def save_external(tmp_path, **changes):
    """Write a model with external data, with entries of its reference changed."""
    proto = one_node([numpy_helper.from_array(np.arange(999, dtype="f4"), "w")])
    onnx.save(proto, tmp_path / "m.onnx", save_as_external_data=True, location="m.data",
              size_threshold=0)
    proto = onnx.load(tmp_path / "m.onnx", load_external_data=False)
    for entry in proto.graph.initializer[0].external_data:
        entry.value = changes.pop(entry.key, entry.value)
    (tmp_path / "m.onnx").write_bytes(proto.SerializeToString())
    return proto


def test_external_data_is_read(tmp_path):
    proto = save_external(tmp_path)
    model = load(tmp_path / "m.onnx")
    assert model.external
    assert np.array_equal(model.weights["w"].array(), np.arange(999, dtype="f4"))
    assert not model.proto.graph.initializer[0].external_data
    model = load(proto, base_dir=str(tmp_path))
    assert np.array_equal(model.weights["w"].array(), np.arange(999, dtype="f4"))
    with pytest.raises(ModelError, match=r"^the model: initializer 'w' lies in 'm.data': give"):
        load(proto)


@pytest.mark.parametrize("changes, words", [
    ({"location": "gone.data"}, "external data 'gone.data' is missing in"),
    ({"location": "/etc/passwd"}, "'/etc/passwd' is no path inside the model's folder"),
    ({"location": "../m.data"}, "'../m.data' is no path inside the model's folder"),
    ({"location": "a/../../m.data"}, "is no path inside the model's folder"),
    ({"location": "link.data"}, "'link.data' leads out of the model's folder"),
    ({"location": ""}, "'' is no path inside the model's folder"),
    ({"offset": "9999999"}, "external data needs 3996 bytes; offset 9999999 and length 3996"),
    ({"offset": "-4"}, "offset -4"),
    ({"length": "8"}, "length 8 do not give them in 'm.data' of"),
    ({"length": "x"}, "offset and length of external data must be numbers"),
])
def test_external_data_stays_inside_the_folder_and_the_file(tmp_path, changes, words):
    folder = tmp_path / "inner"
    folder.mkdir()
    save_external(folder, **changes)
    (tmp_path / "outside").write_bytes(bytes(4000))
    os.symlink(tmp_path / "outside", folder / "link.data")
    with pytest.raises(ModelError) as error:
        load(folder / "m.onnx")
    assert words in str(error.value) and "\n" not in str(error.value)
    assert str(error.value).startswith(f"{folder / 'm.onnx'}: initializer 'w'")


def test_external_data_in_attributes_is_taken_in(tmp_path):
    tensor = numpy_helper.from_array(np.arange(4, dtype="f4"), "t")
    onnx.external_data_helper.set_external_data(tensor, "t.data", 0, 16)
    (tmp_path / "t.data").write_bytes(tensor.raw_data)
    tensor.ClearField("raw_data")
    proto = helper.make_model(helper.make_graph(
        [helper.make_node("Constant", [], ["y"], value=tensor)], "g", [],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [4])]),
        ir_version=8, opset_imports=[helper.make_opsetid("", 13)])
    (tmp_path / "m.onnx").write_bytes(proto.SerializeToString())
    inner = load(tmp_path / "m.onnx").proto.graph.node[0].attribute[0].t
    assert np.array_equal(numpy_helper.to_array(inner), np.arange(4, dtype="f4"))


def broken(change):
    proto = one_node([])
    change(proto)
    return proto


def add(*fields, **attrs):
    return lambda proto: proto.graph.node.append(helper.make_node(*fields, **attrs))


BAD = {
    "no graph": (lambda p: p.ClearField("graph"), "not an ONNX model: it has no graph"),
    "no opset": (lambda p: p.ClearField("opset_import"),
                 "unknown opset: the model imports no ONNX operators"),
    "old opset": (lambda p: setattr(p.opset_import[0], "version", 6),
                  "opset 6 is too old, 7 is the oldest supported; "
                  "convert it with onnx.version_converter"),
    "cycle": (lambda p: (add("Neg", ["b"], ["a"], name="p")(p), add("Neg", ["a"], ["b"])(p)),
              "the graph has a cycle through node 'p' (Neg), node 'Neg_2' (Neg)"),
    "undefined": (add("Add", ["x", "gone"], ["z"], name="p"),
                  "node 'p' (Add) reads 'gone', which nothing defines"),
    "undefined output": (lambda p: p.graph.output.add(name="gone"),
                         "output 'gone' is defined by nothing"),
    "two writers": (add("Neg", ["x"], ["y"], name="p"),
                    "node 'p' (Neg) writes 'y', which is written by node 'n' (Identity) already"),
    "writes input": (add("Neg", ["y"], ["x"], name="p"),
                     "node 'p' (Neg) writes 'x', which is an input or initializer already"),
    "two inputs": (lambda p: p.graph.input.append(p.graph.input[0]), "input 'x' is there twice"),
    "optimized": (add("FusedRegion_0", ["x"], ["z"], name="p", domain="onnx_fusion"),
                  "already optimized: node 'p' is FusedRegion_0 of domain onnx_fusion; "
                  "start from the original model"),
    "arity": (add("Add", ["x"], ["z"], name="p"), "node 'p' (Add) has 1 inputs, opset 13 wants 2"),
    "omitted": (add("Add", ["x", ""], ["z"], name="p"),
                "node 'p' (Add) leaves out input 1 (B), which opset 13 requires"),
    "two initializers": (
        lambda p: p.graph.initializer.extend(2 * [helper.make_tensor("w", 1, (1,), [0.0])]),
        "initializer 'w' is there twice"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_models_are_named_in_one_line(name):
    change, words = BAD[name]
    with pytest.raises(ModelError) as error:
        load(broken(change))
    assert str(error.value) == f"the model: {words}"


def test_versions_are_those_of_the_installed_runtime():
    with pytest.raises(ModelError, match=r"opset 99 is unknown: ONNX Runtime \S+ accepts up to"):
        load(one_node([], opset=99))
    with pytest.raises(ModelError, match=r"IR version 99 is unknown: ONNX Runtime \S+ accepts up"):
        load(one_node([], ir=99))


def test_unknown_operators_and_domains_are_no_errors():
    proto = one_node([])
    proto.graph.node.add(op_type="Strange", domain="some.where", input=["x"], output=["z"])
    proto.graph.node.add(op_type="NotInOnnx", input=["x"], output=["zz"])
    assert len(load(proto).proto.graph.node) == 3


def test_names_inside_subgraphs_are_checked():
    body = helper.make_graph([helper.make_node("Neg", ["nowhere"], ["b"], name="inner")], "body",
                             [], [helper.make_tensor_value_info("b", TensorProto.FLOAT, None)])
    proto = one_node([])
    proto.graph.input.append(helper.make_tensor_value_info("c", TensorProto.BOOL, []))
    add("If", ["c"], ["z"], then_branch=body, else_branch=body)(proto)
    with pytest.raises(ModelError, match="node 'inner' .Neg. reads 'nowhere', which nothing"):
        load(proto)


@pytest.mark.parametrize("content, words", [
    (b"", "not an ONNX model: it has no graph"),
    (b"hello world, this is not a model", "not an ONNX model"),
    (b"\x7fELF\x02\x01\x01" + bytes(64), "not an ONNX model"),
    (b'{"irVersion": "8"}', "not an ONNX model"),
])
def test_other_files_are_not_models(tmp_path, content, words):
    (tmp_path / "m").write_bytes(content)
    with pytest.raises(ModelError) as error:
        load(tmp_path / "m")
    assert str(error.value).startswith(f"{tmp_path / 'm'}: {words}")


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(ModelError, match="cannot be read: no such file or directory$"):
        load(tmp_path / "gone.onnx")
    with pytest.raises(ModelError, match="cannot be read: is a directory$"):
        load(tmp_path)


def test_every_truncation_is_an_error(tmp_path):
    proto = one_node([numpy_helper.from_array(np.ones((400,), "f4"), "w")])
    data = proto.SerializeToString()
    for size in range(0, len(data), 7):
        (tmp_path / "m").write_bytes(data[:size])
        with pytest.raises(ModelError) as error:
            load(tmp_path / "m")
        assert "\n" not in str(error.value)


def test_data_that_does_not_fit_the_shape(tmp_path):
    proto = one_node([numpy_helper.from_array(np.ones((400,), "f4"), "w")])
    proto.graph.initializer[0].dims[0] = 500
    onnx.save(proto, tmp_path / "m")
    with pytest.raises(ModelError, match=r"'w' has 1600 bytes of data, but its shape \[500\] n"):
        load(tmp_path / "m")


def test_mutated_files_load_or_fail_cleanly(tmp_path):
    proto = one_node(tensors())
    data = proto.SerializeToString()
    head = [i for i in range(len(data)) if i < 300 or i > len(data) - 300]
    draw = random.Random(1)
    failed = 0
    for _ in range(300):
        changed = bytearray(data)
        for _ in range(draw.randint(1, 3)):
            changed[draw.choice(head)] = draw.randrange(256)
        (tmp_path / "m").write_bytes(changed)
        try:
            load(tmp_path / "m")
        except ModelError as error:
            assert "\n" not in str(error)
            failed += 1
    assert failed > 50
