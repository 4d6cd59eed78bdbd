"""Bad input: one line that says where and what, exit 1, no traceback, no file changed."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import parser

import onnx_fusion
from onnx_fusion.cli import main as command_line

ORT = onnxruntime.__version__
LENET = Path(__file__).resolve().parent.parent / "models" / "lenet5.onnx"
FLOATS = "(float[2] x) => (float[2] y)"


def model(
    body: str = "a = Relu(x) y = Exp(a)", signature: str = FLOATS, opset: int = 17, ir: int = 8
) -> onnx.ModelProto:
    """Return a model from the text of its nodes."""
    text = f'<ir_version: {ir}, opset_import: ["" : {opset}]> g {signature} {{ {body} }}'
    return parser.parse_model(text)


def external() -> onnx.ModelProto:
    """Return a model whose weight is in a file that is not there."""
    made = model("a = Add(x, w) y = Exp(a)")
    tensor = made.graph.initializer.add(name="w", data_type=1, dims=[2])
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", "gone.bin"), ("offset", "0"), ("length", "8")):
        tensor.external_data.add(key=key, value=value)
    return made


def newest_opset() -> int:
    """Return the newest opset that the installed ONNX Runtime accepts."""
    for opset in range(18, 200):
        data = model(opset=opset).SerializeToString()
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        try:
            onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        except Exception:
            return opset - 1
    raise AssertionError("no newest opset")


def already() -> onnx.ModelProto:
    """Return a model that was optimized before."""
    return onnx_fusion.optimize(model(), policy="all")


def without_opset() -> onnx.ModelProto:
    """Return a model that imports nothing."""
    made = model()
    del made.opset_import[:]
    return made


NEWEST = newest_opset()
BAD: dict[str, tuple[Callable[[], onnx.ModelProto | bytes | None], str]] = {
    "missing": (lambda: None, "cannot be read: no such file or directory"),
    "text": (lambda: b"no model\n", "not an ONNX model: no protobuf message at byte 0"),
    "empty": (lambda: b"", "not an ONNX model: it has no graph"),
    "truncated": (
        lambda: LENET.read_bytes()[:100000],
        f"truncated: field 7 at byte 19 needs {LENET.stat().st_size - 100004} bytes more than "
        "there are",
    ),
    "external": (external, "initializer 'w': external data 'gone.bin' is missing in {folder}"),
    "old": (
        lambda: model(opset=6),
        "opset 6 is too old, 7 is the oldest supported; convert it with onnx.version_converter",
    ),
    "new": (
        lambda: model(opset=NEWEST + 1),
        f"opset {NEWEST + 1} is unknown: ONNX Runtime {ORT} accepts up to {NEWEST}",
    ),
    "unknown": (
        lambda: model(opset=999),
        f"opset 999 is unknown: ONNX Runtime {ORT} accepts up to {NEWEST}",
    ),
    "noopset": (
        without_opset,
        "unknown opset: the model imports no ONNX operators",
    ),
    "cyclic": (
        lambda: model("a = Add(x, b) b = Exp(a) y = Neg(b)"),
        "the graph has a cycle through node 'Add_0' (Add), node 'Exp_1' (Exp), node 'Neg_2' (Neg)",
    ),
    "contradiction": (
        lambda: model(
            "a = MatMul(x, z) y = Exp(a)", "(float[2,3] x, float[4,5] z) => (float[2,5] y)"
        ),
        "node 'MatMul_0' (MatMul, opset 17): incompatible dimensions for matrix multiplication; "
        "its inputs have the shapes [2, 3], [4, 5]",
    ),
    "twice": (
        lambda: model("a = Relu(x) a = Exp(x) y = Neg(a)"),
        "node 'Exp_1' (Exp) writes 'a', which is written by node 'Relu_0' (Relu) already",
    ),
    "undefined": (
        lambda: model("y = Add(x, nowhere)"),
        "node 'Add_0' (Add) reads 'nowhere', which nothing defines",
    ),
    "nooutput": (lambda: model("a = Relu(x)"), "output 'y' is defined by nothing"),
    "optimized": (
        already,
        "already optimized: node 'region_0' is FusedRegion_0 of domain onnx_fusion; start from "
        "the original model",
    ),
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder that is the current one."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def snapshot(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Return every file's bytes and time of change."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


def put(made: onnx.ModelProto | bytes | None, name: str) -> None:
    """Write a case's file."""
    if isinstance(made, onnx.ModelProto):
        Path(name).write_bytes(made.SerializeToString())
    elif made is not None:
        Path(name).write_bytes(made)


@pytest.mark.parametrize("command", [["optimize"], ["optimize", "--verify"], ["explain"]])
@pytest.mark.parametrize("name", BAD)
def test_bad_models(
    name: str, command: list[str], folder: Path, capsys: pytest.CaptureFixture
) -> None:
    make, message = BAD[name]
    put(make(), f"{name}.onnx")
    Path("there.onnx").write_bytes(b"what was there before")
    before = snapshot(folder)
    target = ["there.onnx"] if command[0] == "optimize" else []
    code = command_line.main([command[0], f"{name}.onnx", *target, *command[1:]])
    out, err = capsys.readouterr()
    assert (code, out, err) == (1, "", f"{name}.onnx: {message.format(folder=folder)}\n")
    assert snapshot(folder) == before


@pytest.mark.parametrize("options", [[], ["--verify"]])
@pytest.mark.parametrize("link", ["model.onnx", "./model.onnx", "soft.onnx", "hard.onnx"])
def test_the_input_is_never_the_output(
    link: str, options: list[str], folder: Path, capsys: pytest.CaptureFixture
) -> None:
    put(model(), "model.onnx")
    os.symlink("model.onnx", "soft.onnx")
    os.link("model.onnx", "hard.onnx")
    before = snapshot(folder)
    code = command_line.main(["optimize", "model.onnx", link, *options])
    out, err = capsys.readouterr()
    message = f"{link}: is the input itself; choose another output file\n"
    assert (code, out, err) == (1, "", message)
    assert snapshot(folder) == before


@pytest.mark.parametrize("options", [[], ["--verify"]])
@pytest.mark.parametrize(
    ("target", "why"),
    [
        ("nowhere/out.onnx", "no such file or directory"),
        ("folder", "is a directory"),
        ("model.onnx/out.onnx", "not a directory"),
    ],
)
def test_unwritable_outputs(
    target: str, why: str, options: list[str], folder: Path, capsys: pytest.CaptureFixture
) -> None:
    put(model(), "model.onnx")
    Path("folder").mkdir()
    before = snapshot(folder)
    code = command_line.main(["optimize", "model.onnx", target, *options])
    out, err = capsys.readouterr()
    assert (code, out, err) == (1, "", f"{target}: cannot be written: {why}\n")
    assert snapshot(folder) == before
    assert sorted(os.listdir()) == ["folder", "model.onnx"]


@pytest.mark.parametrize("option", ["--html", "--dot"])
@pytest.mark.parametrize("target", [".", "folder"])
def test_pages_are_no_folders(
    target: str, option: str, folder: Path, capsys: pytest.CaptureFixture
) -> None:
    put(model(), "model.onnx")
    Path("folder").mkdir()
    assert command_line.main(["explain", "model.onnx", option, target]) == 1
    assert capsys.readouterr() == ("", f"{target}: cannot be written: is a directory\n")


def test_unknown_operators_are_no_error(folder: Path, capsys: pytest.CaptureFixture) -> None:
    text = """<ir_version: 8, opset_import: ["" : 17, "my.domain" : 1]> g (float[2] x) =>
        (float[2] y) { a = Relu(x) b = Exp(a) c = my.domain.Strange(b) y = Neg(c) }"""
    put(parser.parse_model(text), "model.onnx")
    assert command_line.main(["optimize", "model.onnx", "out.onnx", "--policy", "all"]) == 0
    nodes = onnx.load("out.onnx").graph.node
    assert [node.op_type for node in nodes if node.domain == "my.domain"] == ["Strange"]
    assert capsys.readouterr().out.startswith("out.onnx: 4 nodes before, ")


USAGE = {
    "no command": [],
    "no output": ["optimize", "model.onnx"],
    "policy": ["optimize", "a", "b", "--policy", "most"],
    "threads": ["verify", "a", "b", "--threads", "0"],
    "too many threads": ["bench", "a", "--threads", "1000000"],
    "threads to tune for": ["optimize", "a", "b", "--tune", "--threads", "1,0"],
    "seconds": ["bench", "a", "--seconds", "nan"],
    "number": ["bench", "a", "--threads", "two"],
    "option": ["explain", "a", "--yaml"],
    "no number of threads": ["verify", "a", "b", "--threads", "two"],
    "no threads": ["optimize", "a", "b", "--tune", "--threads", ""],
    "no budget": ["optimize", "a", "b", "--tune", "--budget", "soon"],
    "half a region": ["explain", "a", "--max-regions", "1.5"],
}


@pytest.mark.parametrize("case", USAGE)
def test_usage_errors_exit_with_2(case: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as error:
        command_line.main(USAGE[case])
    assert error.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("usage: onnx-fusion")
    assert "invalid" not in err.splitlines()[-1] or "choice" in err.splitlines()[-1]


NAMES = {
    "no node": (["--skip", "conv9"], "skip 'conv9' is neither a node nor an operator type; "),
    "case": (["--only", "relu"], "only 'relu' is neither a node nor an operator type; did you "
                                 "mean 'Relu'?; "),
    "one of two": (["--skip", "Exp", "Relu_1"], "skip 'Relu_1' is neither a node nor an operator "
                                                "type; did you mean 'Relu_0'?; "),
}  # fmt: skip


@pytest.mark.parametrize("command", [["explain"], ["optimize", "out.onnx"], ["bisect"]])
@pytest.mark.parametrize("case", NAMES)
def test_names_of_nothing(
    case: str, command: list[str], folder: Path, capsys: pytest.CaptureFixture
) -> None:
    put(model(), "model.onnx")
    options, message = NAMES[case]
    assert command_line.main([command[0], "model.onnx", *command[1:], *options]) == 1
    line = f"model.onnx: {message}'explain --json' shows the names\n"
    assert capsys.readouterr() == ("", line)
    assert os.listdir() == ["model.onnx"]


def test_an_operator_that_the_model_has_not_is_a_note(
    folder: Path, capsys: pytest.CaptureFixture
) -> None:
    put(model(), "model.onnx")
    options = ["--skip", "Softmax", "Relu", "--policy", "all"]
    assert command_line.main(["optimize", "model.onnx", "out.onnx", *options]) == 0
    assert capsys.readouterr().err.splitlines()[0] == "skip Softmax: the model has no such node"
    assert command_line.main(["explain", "model.onnx", *options]) == 0
    assert capsys.readouterr().err == "skip Softmax: the model has no such node\n"


def test_bodies_and_functions_have_names() -> None:
    from bodies_models import NESTED, parse

    for name in ("outer", "outer/then_branch", "outer/then_branch/inner"):
        onnx_fusion.plan(parse(NESTED), skip=[name])
        onnx_fusion.plan(parse(NESTED), only=[name])
    with pytest.raises(onnx_fusion.errors.OnnxFusionError, match="'outer/then'"):
        onnx_fusion.plan(parse(NESTED), only=["outer/then"])


def test_files_that_would_be_each_other(folder: Path, capsys: pytest.CaptureFixture) -> None:
    put(model(), "model.onnx")
    Path("there").write_text("before")
    before = snapshot(folder)
    assert command_line.main(["explain", "model.onnx", "--html", "a", "--dot", "./a"]) == 1
    assert capsys.readouterr().err == "./a: is what --html names too; choose two files\n"
    assert command_line.main(["bisect", "model.onnx", "--output", "there"]) == 1
    assert capsys.readouterr().err == "there: cannot be written: file exists\n"
    assert snapshot(folder) == before


@pytest.mark.parametrize("debug", [False, True])
def test_the_unexpected_is_one_line_too(
    debug: bool, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError("division\nby zero")

    put(model(), "model.onnx")
    monkeypatch.setattr("onnx_fusion.api.optimize_file", fail)
    arguments = ["optimize", "model.onnx", "out.onnx"] + ["--debug"] * debug
    assert command_line.main(arguments) == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1] == "ZeroDivisionError: division by zero"
    assert lines[0].startswith("Traceback") is debug
    assert (len(lines) == 1) is not debug


VERIFY = {
    "no arrays": (b"text", "x.npz: not an .npz file of plain arrays"),
    "missing": ({"z": np.zeros(2)}, "x.npz: holds no array 'x' or 'in_x'; it has z"),
    "type": (
        {"x": np.zeros(2)},
        "x.npz: array for input 'x' is float64; the model wants float32",
    ),
    "shape": (
        {"in_x": np.zeros(3, np.float32)},
        "x.npz: array for input 'x' has shape [3]; the model wants [2]",
    ),
}


@pytest.mark.parametrize("case", VERIFY)
def test_bad_inputs_for_verify(case: str, folder: Path, capsys: pytest.CaptureFixture) -> None:
    given, message = VERIFY[case]
    put(model(), "model.onnx")
    if isinstance(given, bytes):
        Path("x.npz").write_bytes(given)
    else:
        np.savez("x.npz", **given)
    arguments = ["verify", "model.onnx", "model.onnx", "--inputs", "x.npz"]
    assert command_line.main(arguments) == 1
    assert capsys.readouterr() == ("", f"{message}\n")


@pytest.mark.parametrize("command", ["verify", "bench"])
def test_bad_models_to_compare(command: str, folder: Path, capsys: pytest.CaptureFixture) -> None:
    put(model(), "model.onnx")
    Path("text.onnx").write_text("no model")
    for arguments, line in (
        (["gone.onnx", "model.onnx"], "gone.onnx: cannot be read: no such file or directory\n"),
        (["text.onnx", "model.onnx"], "text.onnx: not an ONNX model\n"),
        (["model.onnx", "gone.onnx"], "gone.onnx: cannot be read: no such file or directory\n"),
        (["model.onnx", "text.onnx"], "text.onnx: not an ONNX model\n"),
        (["model.onnx", "."], ".: cannot be read: is a directory\n"),
    ):
        assert command_line.main([command, *arguments]) == 1
        assert capsys.readouterr() == ("", line)


def test_models_of_other_inputs_are_not_timed(folder: Path, capsys: pytest.CaptureFixture) -> None:
    put(model(), "model.onnx")
    put(model("y = Neg(z)", "(float[2] z) => (float[2] y)"), "other.onnx")
    assert command_line.main(["bench", "model.onnx", "other.onnx", "--seconds", "0.1"]) == 1
    line = "the optimized model has an input 'z'; there are arrays for x: "
    assert capsys.readouterr() == ("", f"{line}are these copies of one model?\n")


@pytest.mark.parametrize(
    "arguments", [["optimize", "model.onnx", "out.onnx"], ["bench", "model.onnx"]]
)
def test_an_unknown_instruction_set_is_no_other(arguments: list[str], folder: Path) -> None:
    put(model(), "model.onnx")
    root = str(Path(onnx_fusion.__file__).resolve().parent.parent)
    path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    done = subprocess.run(
        [sys.executable, "-m", "onnx_fusion", *arguments],
        env={**os.environ, "PYTHONPATH": path, "ONNX_FUSION_ISA": "avx3"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("ONNX_FUSION_ISA is 'avx3'; this library and machine have ")
    assert done.stderr.endswith(": name one of these, or unset it\n")
    assert os.listdir() == ["model.onnx"]
