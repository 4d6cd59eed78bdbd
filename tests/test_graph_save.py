"""Writing: what comes back is what went in, byte for byte the same each time, all or nothing."""

import os
import tracemalloc

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnx_fusion.errors import ModelError
from onnx_fusion.graph import save as save_module
from onnx_fusion.graph.load import load
from onnx_fusion.graph.save import ALIGNMENT, save, to_proto
from onnx_fusion.graph.weights import Weight


def example(sizes=(3, 5000, 700)):
    """Return a model with everything around its graph that a model can have."""
    arrays = [np.arange(size, dtype="f4") for size in sizes]
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "w0"], ["y"], name="n", doc_string="why")], "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3], "an input")],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 3])],
        [numpy_helper.from_array(array, f"w{i}") for i, array in enumerate(arrays)],
        doc_string="what", value_info=[])
    function = helper.make_function("local", "F", ["a"], ["b"],
                                    [helper.make_node("Neg", ["a"], ["b"])],
                                    [helper.make_opsetid("", 17)])
    proto = helper.make_model(graph, ir_version=9, producer_name="p", producer_version="1",
                              domain="d", model_version=7, doc_string="model",
                              opset_imports=[helper.make_opsetid("", 17),
                                             helper.make_opsetid("local", 1)],
                              functions=[function])
    helper.set_model_props(proto, {"key": "value", "other": "thing"})
    return proto


def test_what_is_read_is_written_again(tmp_path):
    proto = example()
    onnx.save(proto, tmp_path / "in.onnx")
    model = load(tmp_path / "in.onnx")
    assert save(model.proto, model.weights, tmp_path / "out.onnx") == [str(tmp_path / "out.onnx")]
    assert onnx.load(tmp_path / "out.onnx") == proto
    assert to_proto(model.proto, model.weights) == proto
    assert load(proto).weights.keys() == {"w1", "w2"}
    save(load(proto).proto, load(proto).weights, tmp_path / "again.onnx")
    assert (tmp_path / "again.onnx").read_bytes() == (tmp_path / "out.onnx").read_bytes()
    assert sorted(os.listdir(tmp_path)) == ["again.onnx", "in.onnx", "out.onnx"]


def test_data_in_the_skeleton_is_not_replaced(tmp_path):
    proto = example()
    save(proto, {"w0": Weight.of(np.zeros(3, "f4"))}, tmp_path / "m.onnx")
    assert onnx.load(tmp_path / "m.onnx") == proto


@pytest.mark.parametrize("forced", [True, None])
def test_external_data(tmp_path, forced, monkeypatch):
    proto = example()
    model = load(proto)
    if not forced:
        monkeypatch.setattr(save_module, "LARGEST", 10000)
    out, data = save(model.proto, model.weights, tmp_path / "m.onnx", external=forced)
    assert data == str(tmp_path / "m.onnx.data")
    assert onnx.load(out).graph.node == proto.graph.node
    for got, want in zip(onnx.load(out).graph.initializer, proto.graph.initializer, strict=True):
        assert np.array_equal(numpy_helper.to_array(got), numpy_helper.to_array(want))
    skeleton = onnx.load(out, load_external_data=False)
    offsets = [int(entry.value) for tensor in skeleton.graph.initializer
               for entry in tensor.external_data if entry.key == "offset"]
    assert len(offsets) == 2 and all(offset % ALIGNMENT == 0 for offset in offsets)
    x = np.ones((1, 3), "f4")
    session = onnxruntime.InferenceSession(out, providers=["CPUExecutionProvider"])
    assert np.array_equal(session.run(None, {"x": x})[0], x + np.arange(3, dtype="f4"))
    first = (tmp_path / "m.onnx").read_bytes(), (tmp_path / "m.onnx.data").read_bytes()
    save(model.proto, model.weights, tmp_path / "m.onnx", external=True)
    assert first == ((tmp_path / "m.onnx").read_bytes(), (tmp_path / "m.onnx.data").read_bytes())


def test_small_tensors_stay_in_the_model_where_they_can(tmp_path, monkeypatch):
    proto = example((3, 5000, 20000))
    model = load(proto)
    out, data = save(model.proto, model.weights, tmp_path / "m.onnx", external=True)
    assert os.path.getsize(data) == 80000
    assert load(out).external and to_proto(load(out).proto, load(out).weights) == proto
    monkeypatch.setattr(save_module, "LARGEST", 15000)
    out, data = save(model.proto, model.weights, tmp_path / "m.onnx")
    assert os.path.getsize(data) == 20480 + 80000
    with pytest.raises(ModelError, match="m.onnx: over 2 GB, too much for a single file"):
        save(model.proto, model.weights, tmp_path / "m.onnx", external=False)
    assert os.path.getsize(data) == 20480 + 80000


def test_the_name_of_the_data_is_chosen_for_the_place_it_moves_to(tmp_path):
    model = load(example())
    (tmp_path / "a").mkdir()
    save(model.proto, model.weights, tmp_path / "a" / "m.onnx", external=True)
    model = load(tmp_path / "a" / "m.onnx")
    (tmp_path / "b").mkdir()
    files = save(model.proto, model.weights, tmp_path / "b" / "m.onnx", external=True,
                 home=tmp_path / "a" / "m.onnx")
    assert files == [str(tmp_path / "b" / "m.onnx"), str(tmp_path / "b" / "m.onnx.1.data")]
    made = load(files[0])
    assert to_proto(made.proto, made.weights) == example()


def test_the_input_data_file_is_never_written(tmp_path):
    model = load(example())
    save(model.proto, model.weights, tmp_path / "m.onnx", external=True)
    before = (tmp_path / "m.onnx.data").read_bytes()
    model = load(tmp_path / "m.onnx")
    assert model.external
    changed = {**model.weights, "w1": Weight.of(np.zeros(5000, "f4"))}
    _, data = save(model.proto, changed, tmp_path / "m.onnx", external=True)
    assert data == str(tmp_path / "m.onnx.1.data")
    assert (tmp_path / "m.onnx.data").read_bytes() == before
    assert not numpy_helper.to_array(onnx.load(tmp_path / "m.onnx").graph.initializer[1]).any()


@pytest.mark.parametrize("external", [True, False])
@pytest.mark.parametrize("failure", [KeyboardInterrupt, MemoryError, OSError(28, "No space left")])
def test_nothing_is_left_of_what_fails(tmp_path, external, failure):
    def fail():
        raise failure

    model = load(example())
    weights = {**model.weights, "w2": Weight(1, (700,), 2800, fail)}
    (tmp_path / "m.onnx").write_bytes(b"before")
    expected = ModelError if isinstance(failure, OSError) else failure
    with pytest.raises(expected) as error:
        save(model.proto, weights, tmp_path / "m.onnx", external=external)
    if expected is ModelError:
        assert str(error.value).endswith("cannot be written: no space left")
    assert os.listdir(tmp_path) == ["m.onnx"]
    assert (tmp_path / "m.onnx").read_bytes() == b"before"


def test_unwritable_output_is_named(tmp_path):
    model = load(example())
    with pytest.raises(ModelError, match="gone/m.onnx: cannot be written: no such file or dir"):
        save(model.proto, model.weights, tmp_path / "gone" / "m.onnx")
    (tmp_path / "folder").mkdir()
    with pytest.raises(ModelError, match="folder: cannot be written: is a directory"):
        save(model.proto, model.weights, tmp_path / "folder")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ModelError, match="pipe: cannot be written: is no regular file"):
        save(model.proto, model.weights, tmp_path / "pipe")
    assert sorted(os.listdir(tmp_path)) == ["folder", "pipe"]


def test_too_large_for_a_proto(monkeypatch):
    model = load(example())
    monkeypatch.setattr(save_module, "LARGEST", 10000)
    with pytest.raises(ModelError, match="over 2 GB"):
        to_proto(model.proto, model.weights)


def test_saving_holds_no_copy_of_the_weights(tmp_path):
    onnx.save(example((3, 1 << 23)), tmp_path / "m.onnx")
    model = load(tmp_path / "m.onnx")
    tracemalloc.start()
    save(model.proto, model.weights, tmp_path / "o.onnx")
    assert tracemalloc.get_traced_memory()[1] < 3 << 20
    tracemalloc.stop()
    assert onnx.load(tmp_path / "m.onnx") == onnx.load(tmp_path / "o.onnx")


def test_links_and_permissions_are_those_of_a_new_file(tmp_path):
    model = load(example())
    (tmp_path / "target.onnx").write_bytes(b"other")
    os.symlink(tmp_path / "target.onnx", tmp_path / "m.onnx")
    save(model.proto, model.weights, tmp_path / "m.onnx")
    assert (tmp_path / "target.onnx").read_bytes() == b"other"
    umask = os.umask(0)
    os.umask(umask)
    assert (tmp_path / "m.onnx").stat().st_mode & 0o777 == 0o666 & ~umask
