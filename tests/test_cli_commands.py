"""The commands on the models of this repository: what they write and print."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

from onnx_fusion.cli.main import main

ROOT = Path(__file__).resolve().parent.parent
MODELS = sorted((ROOT / "models").glob("*.onnx"))
LENET = str(ROOT / "models" / "lenet5.onnx")


def test_the_models_are_small_and_lenet_keeps_batch_normalization() -> None:
    names = [path.name for path in MODELS]
    assert names == ["lenet5.onnx", "tiny_attention.onnx", "tiny_depthwise.onnx"]
    assert all(path.stat().st_size < 1_000_000 for path in MODELS)
    ops = [node.op_type for node in onnx.load(LENET).graph.node if node.op_type != "Constant"]
    block = ["Conv", "BatchNormalization", "Relu", "MaxPool"]
    assert ops == [*block, *block, "Reshape", "Gemm", "Relu", "Gemm", "Relu", "Gemm"]


@pytest.mark.parametrize("policy", ["default", "all"])
@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.stem)
def test_optimize_and_verify(
    path: Path, policy: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path / "out.onnx"
    assert main(["optimize", str(path), str(out), "--policy", policy, "--verify"]) == 0
    before, after = onnx.load(path), onnx.load(out)
    onnx.checker.check_model(after, full_check=True)
    printed = capsys.readouterr().out.splitlines()
    regions = sum(node.domain == "onnx_fusion" for node in after.graph.node)
    assert printed[0] == (
        f"{out}: {len(before.graph.node)} nodes before, {len(after.graph.node)} after, "
        f"{regions} region{'s' * (regions != 1)}"
    )
    assert re.fullmatch(r"intermediate results: .* before, .* after", printed[1])
    assert printed[2] == "verified: with the library and without"
    assert re.fullmatch(r"took [0-9.e-]+ s", printed[3])
    assert os.listdir(tmp_path) == ["out.onnx"]


@pytest.mark.parametrize("verified", [["--verify"], []])
def test_large_weights_have_a_file_of_their_own(
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    verified: list[str],
) -> None:
    monkeypatch.setattr("onnx_fusion.emit.write.LEAST_BYTES", 1 << 10)
    out, data = tmp_path / "out.onnx", tmp_path / "out.onnx.data"
    out.write_bytes(b"before")
    data.write_bytes(b"before")
    assert main(["optimize", LENET, str(out), "--policy", "all", *verified]) == 0
    assert re.fullmatch(
        rf"{data}: [0-9.]+ KiB of weights; keep it beside the model "
        r"\('--single-file' writes none\)",
        capsys.readouterr().out.splitlines()[1],
    )
    assert sorted(os.listdir(tmp_path)) == ["out.onnx", "out.onnx.data"]
    assert main(["verify", LENET, str(out)]) == 0
    assert main(["bench", LENET, str(out), "--threads", "1"]) == 0
    one = tmp_path / "one.onnx"
    assert main(["optimize", LENET, str(one), "--policy", "all", "--single-file", *verified]) == 0
    both = onnx.load(out)
    for tensor in both.graph.initializer:
        tensor.ClearField("data_location")  # present, if only with its default
    assert onnx.load(one) == both
    assert not (tmp_path / "one.onnx.data").exists()


def test_no_fallback_and_skip(tmp_path: Path) -> None:
    out = tmp_path / "out.onnx"
    skipped = ["--skip", "/conv1/Conv", "MaxPool", "--no-fallback", "--policy", "all"]
    assert main(["optimize", LENET, str(out), *skipped]) == 0
    made = onnx.load(out)
    assert not made.functions
    left = [node for node in made.graph.node if node.domain != "onnx_fusion"]
    assert {"/conv1/Conv", "/maxpool1/MaxPool", "/maxpool2/MaxPool"} <= {n.name for n in left}


def explain(capsys: pytest.CaptureFixture, *arguments: str) -> dict:
    """Return what `explain --json` prints."""
    assert main(["explain", *arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_explain_lenet(capsys: pytest.CaptureFixture) -> None:
    told = explain(capsys, LENET, "--policy", "all")
    assert sorted(told) == ["opaque", "refusals", "regions"]
    where = {node: region for region in told["regions"] for node in region["nodes"]}
    first = where["/conv1/Conv"]
    assert {"/conv1/Conv", "/bn1/BatchNormalization", "/relu1/Relu"} <= set(first["nodes"])
    assert first["anchor"] == "/conv1/Conv"
    assert first["mapping_type"] == "many-to-many"
    for gemm, relu in (("/fc/Gemm", "/relu/Relu"), ("/fc1/Gemm", "/relu1_1/Relu")):
        assert where[gemm] is where[relu]
    for conv, pool in (("/conv1/Conv", "/maxpool1/MaxPool"), ("/conv2/Conv", "/maxpool2/MaxPool")):
        assert where[conv] is not where.get(pool) or where[conv]["template"]
    keys = ["anchor", "irs_bytes_saved", "layouts", "mapping_type", "name", "nodes", "template"]
    assert all(sorted(region) == keys for region in told["regions"])
    assert all(sorted(r) == ["consumer", "producer", "reason"] for r in told["refusals"])
    assert all(r["reason"] for r in told["refusals"])


def test_explain_names_nodes_that_have_no_name(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    text = """<ir_version: 8, opset_import: ["" : 17]> g (float[64,64] x) => (float[64,64] y)
        { a = Relu(x) [named] b = Exp(a) y = Neg(b) }"""
    path = tmp_path / "m.onnx"
    path.write_bytes(parser.parse_model(text).SerializeToString())
    told = explain(capsys, str(path), "--policy", "all")
    assert [region["nodes"] for region in told["regions"]] == [["Relu_0", "named", "Neg_2"]]


def test_explain_in_words(capsys: pytest.CaptureFixture) -> None:
    assert main(["explain", LENET, "--policy", "all"]) == 0
    printed = capsys.readouterr().out
    assert "many-to-many, anchor /conv1/Conv, template small, saves " in printed
    assert "  nodes    /conv1/Conv, /bn1/BatchNormalization, /relu1/Relu" in printed
    assert (
        main(["explain", str(Path(LENET).with_name("tiny_depthwise.onnx")), "--policy", "all"]) == 0
    )
    printed = capsys.readouterr().out
    assert "anchor" in printed and "\nnot fused:\n  " in printed


def wrong_copy(folder: Path) -> str:
    """Write LeNet-5 with another bias at the end, and return the path."""
    made = onnx.load(LENET)
    bias = next(t for t in made.graph.initializer if t.name == "fc2.bias")
    bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) + np.float32(1), bias.name))
    path = folder / "wrong.onnx"
    onnx.save(made, path)
    return str(path)


def test_verify_prints_a_line_for_each_output(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert main(["verify", LENET, LENET, "--threads", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["output", "result", "gate", "max", "error", "error/range"]
    assert lines[1].split() == ["logits", "passed", "fp32", "0", "0"]
    wrong = wrong_copy(tmp_path)
    assert main(["verify", LENET, wrong, "--no-library"]) == 1
    out, err = capsys.readouterr()
    assert out.splitlines()[1].split()[:3] == ["logits", "failed", "float64"]
    assert re.fullmatch(
        re.escape(wrong) + r": output 'logits': off float64 by 1, ONNX Runtime by \S+; "
        r"node '/fc2/Gemm' makes the first value that differs, 'logits'\n",
        err,
    )


def test_a_failed_verify_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    import onnx_fusion.runtime.verify as module
    from onnx_fusion.runtime.verify import Output, Report

    bad = Output("y", "float32", (2,), 1.0, 0.5, "fp32", False, "2 of 2 elements differ")
    monkeypatch.setattr(module, "verify", lambda *_, **__: Report((bad,), (), "region 'r' is bad"))
    out = tmp_path / "out.onnx"
    out.write_bytes(b"before")
    assert main(["optimize", LENET, str(out), "--verify"]) == 1
    message = f"{out}: not written: output 'y': 2 of 2 elements differ; region 'r' is bad\n"
    assert capsys.readouterr().err.endswith(message)
    assert out.read_bytes() == b"before"
    assert os.listdir(tmp_path) == ["out.onnx"]


def test_verify_takes_the_users_inputs(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path = tmp_path / "x.npz"
    np.savez(path, in_image=np.zeros((1, 1, 32, 32), np.float32), out_0=np.zeros(3))
    assert main(["verify", LENET, LENET, "--inputs", str(path)]) == 0
    assert "passed" in capsys.readouterr().out


@pytest.mark.parametrize("given", [True, False])
def test_bench_prints_both_and_the_ratio(given: bool, capsys: pytest.CaptureFixture) -> None:
    arguments = [LENET] if given else []
    assert main(["bench", LENET, *arguments, "--seconds", "0.2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["model", "median", "ms", "25", "%", "75", "%", "samples"]
    assert [line.split()[0] for line in lines[1:3]] == ["original", "optimized"]
    ratio = re.fullmatch(r"ratio (\d+\.\d\d) \(original / optimized, 1 thread\)", lines[3])
    assert ratio
    medians = [float(line.split()[1]) for line in lines[1:3]]
    assert float(ratio[1]) == pytest.approx(medians[0] / medians[1], rel=0.02)


@pytest.mark.parametrize("command", [["-m", "onnx_fusion", "verify"], ["scripts/validate.py"]])
def test_verify_as_a_process(command: list[str]) -> None:
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    done = subprocess.run(
        [sys.executable, *command, LENET, LENET, "--no-library"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "logits  passed  fp32" in done.stdout
