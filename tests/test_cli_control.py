"""Options that leave regions and rules out, and `bisect`, which finds the one to leave out."""

import dataclasses
import json
from pathlib import Path

import onnx
import onnx.parser
import pytest

from onnx_fusion import api
from onnx_fusion.cli.main import main
from onnx_fusion.graph.names import input_names
from onnx_fusion.lower import reuse
from onnx_fusion.passes import rewrite
from onnx_fusion.passes.rewrite.model import Exactness
from onnx_fusion.passes.rewrite.pattern import rule
from onnx_fusion.runtime.shrink import shrink
from onnx_fusion.runtime.verify import verify

ROOT = Path(__file__).parents[1]
LENET = str(ROOT / "models" / "lenet5.onnx")
HEAD = '<ir_version: 8, opset_import: ["" : 17]>\n'
CHAIN = """g (float[4, 64] x) => (float[4, 64] y) {
    a = Tanh(x)  b = Softmax(a)  c = Sigmoid(b)  d = Mul(c, b)  e = Softmax(d)  y = Sqrt(e) }"""


def explain(capsys, *options):
    assert main(["explain", LENET, "--policy", "all", "--json", *options]) == 0
    return json.loads(capsys.readouterr().out)


def test_only(capsys):
    told = explain(capsys, "--only", "/conv1/Conv", "Gemm", "--disable-rule", "small")
    fused = [set(region["nodes"]) for region in told["regions"]]
    convolution = {"/conv1/Conv", "/bn1/BatchNormalization"}
    assert fused == [convolution, {"/fc/Gemm"}, {"/fc1/Gemm"}, {"/fc2/Gemm"}]
    assert any(r["reason"] == "not among what was asked for" for r in told["refusals"])


def test_max_regions(capsys):
    every = explain(capsys, "--disable-rule", "small")["regions"]
    told = explain(capsys, "--disable-rule", "small", "--max-regions", "2")
    assert told["regions"] == every[:2] and len(every) > 2
    assert any("as many regions as were allowed" in r["reason"] for r in told["refusals"])
    assert explain(capsys, "--max-regions", "0")["regions"] == []


def test_a_disabled_rule_does_not_fire():
    text = """g (float[4, 64] x) => (float[4, 64] y) {
        one = Constant <value = float {1.0}> ()
        a = Abs(x)  b = Add(a, one)  y = Div(x, b) }"""
    model = onnx.parser.parse_model(HEAD + text)
    names = {one.name for one in api.list_rules()}
    (fired,) = api.plan_programs(model, policy="all").graph.nodes
    kept = api.plan_programs(model, policy="all", disabled=names).graph.nodes
    assert fired.op_type == "Softsign"
    assert [node.op_type for node in kept] == ["Abs", "Add", "Div"]


def test_optimize_takes_the_options(tmp_path, capsys):
    out = str(tmp_path / "out.onnx")
    options = ["--only", "Conv", "--max-regions", "1", "--disable-rule", "small"]
    assert main(["optimize", LENET, out, "--policy", "all", *options, "--verify"]) == 0
    assert "1 region" in capsys.readouterr().out.splitlines()[0]


def test_an_unknown_rule_is_one_line(capsys):
    assert main(["explain", LENET, "--disable-rule", "nosuch"]) == 1
    told = "nosuch: no rule has this name; see 'optimize --list-rules'\n"
    assert capsys.readouterr().err == told


def test_rules_are_listed(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["optimize", "--list-rules"])
    assert ended.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    names = [line.split()[0] for line in lines[1:]]
    assert names == [one.name for one in api.list_rules()] and "small" in names
    assert len(set(names)) == len(names) > 20


@pytest.mark.parametrize("wrong", [{3}, {2, 7}, {0, 1, 9}, set(range(10))])
def test_shrink_finds_the_smallest_set(wrong):
    tries = []

    def fails(some):
        tries.append(some)
        return wrong <= set(some)

    assert set(shrink(list(range(10)), fails)) == wrong
    assert len(tries) < 60


def test_shrink_is_quick_for_one_of_many():
    tries = []
    assert shrink(list(range(1000)), lambda some: tries.append(1) or 777 in some) == [777]
    assert len(tries) < 25


@pytest.fixture
def chain(tmp_path):
    path = tmp_path / "chain.onnx"
    onnx.save(onnx.parser.parse_model(HEAD + CHAIN), path)
    return path


def bisect(capsys, path, folder, *options):
    assert main(["bisect", str(path), "--policy", "all", "--output", str(folder), *options]) == 0
    return capsys.readouterr().out.splitlines()


def test_an_equivalent_model_has_no_fault(chain, tmp_path, capsys):
    (line,) = bisect(capsys, chain, tmp_path / "out")
    assert line.startswith(f"{chain}: equivalent with ")
    assert not (tmp_path / "out").exists()


def test_a_wrong_program_is_found(chain, tmp_path, capsys, monkeypatch):
    right = reuse.lower

    def lower(region, graph, **options):
        made = right(region, graph, **options)
        return dataclasses.replace(made, program=made.program.replace("= sigmoid", "= tanh"))

    monkeypatch.setattr(reuse, "lower", lower)
    folder = tmp_path / "out"
    lines = bisect(capsys, chain, folder, "--disable-rule", "small")
    (region,) = [line for line in lines if " is at fault (kernel): " in line]
    assert "Sigmoid_2" in region and "Softmax_4" not in region
    assert "no rule is at fault: it fails with all of them disabled" in lines
    assert lines[-1].endswith("fails as well")
    minimal = onnx.load(folder / "minimal.onnx")
    onnx.checker.check_model(minimal, full_check=True)
    assert 1 <= len(minimal.graph.node) < 6
    assert "tanh" in (folder / "report.txt").read_text()
    inputs = ["--inputs", str(folder / "inputs.npz")]
    again = bisect(capsys, folder / "minimal.onnx", tmp_path / "again", *inputs)
    assert any(" is at fault (kernel): " in line for line in again)
    monkeypatch.undo()
    assert verify(folder / "minimal.onnx", api.optimize(str(folder / "minimal.onnx"))).passed


IN_A_BODY = """g (bool c, float[4, 64] x) => (float[4, 64] y) {
    a = Tanh(x)
    b = If (c) <
        then_branch = t () => (float[4, 64] p) { d = Sigmoid(a)  p = Mul(d, a) },
        else_branch = e () => (float[4, 64] q) { q = Neg(a) } >
    y = Sqrt(b) }"""
IN_A_FUNCTION = """g (float[4, 64] x) => (float[4, 64] y) {
    a = Tanh(x)  b = own.twice(a)  y = Sqrt(b) }
<domain: "own", opset_import: ["" : 17]>
inner (u) => (v) { w = Sigmoid(u)  v = Mul(w, u) }
<domain: "own", opset_import: ["" : 17, "own" : 1]>
twice (u) => (v) { w = own.inner(u)  v = Neg(w) }"""
OWN = '<ir_version: 8, opset_import: ["" : 17, "own" : 1]>\n'


@pytest.mark.parametrize(("text", "kept"), [(IN_A_BODY, ["If"]), (IN_A_FUNCTION, ["twice"])])
def test_a_fault_in_a_body_gives_what_has_the_body(text, kept, tmp_path, capsys, monkeypatch):
    right = reuse.lower

    def lower(region, graph, **options):
        made = right(region, graph, **options)
        return dataclasses.replace(made, program=made.program.replace("= sigmoid", "= tanh"))

    monkeypatch.setattr(reuse, "lower", lower)
    path, folder = tmp_path / "m.onnx", tmp_path / "out"
    onnx.save(onnx.parser.parse_model((OWN if "own" in text else HEAD) + text), path)
    lines = bisect(capsys, path, folder)
    assert lines[-1].endswith("1 node, fails as well")
    minimal = onnx.load(folder / "minimal.onnx")
    assert [node.op_type for node in minimal.graph.node] == kept


@pytest.mark.parametrize(
    ("text", "names", "wanted"),
    [
        (IN_A_BODY, ["Mul", "Sqrt"], {"If_1/then_branch/Mul_1", "Sqrt_2"}),
        (IN_A_BODY, ["If_1/then_branch/Sigmoid_0"], {"If_1/then_branch/Sigmoid_0"}),
        (IN_A_BODY, ["If_1"], {"If_1/then_branch/Sigmoid_0", "If_1/then_branch/Mul_1",
                               "If_1/else_branch/Neg_0"}),
        (IN_A_FUNCTION, ["Mul"], {"own::inner/Mul_1"}),
        (IN_A_FUNCTION, ["inner"], {"own::inner/Sigmoid_0", "own::inner/Mul_1"}),
        (IN_A_FUNCTION, ["own::inner"], {"own::inner/Sigmoid_0", "own::inner/Mul_1"}),
    ],
)  # fmt: skip
def test_only_holds_in_bodies(text, names, wanted, tmp_path):
    path = tmp_path / "m.onnx"
    onnx.save(onnx.parser.parse_model((OWN if "own" in text else HEAD) + text), path)
    rules = {one.name for one in api.list_rules()}
    planned = api.plan_programs(str(path), policy="all", disabled=rules, only=names)
    nodes = [node for region in planned.plan.regions for node in region.nodes]
    found = {name for node in nodes for name in input_names(node, planned.model.proto)}
    assert found == wanted


def test_a_wrong_rule_is_found(chain, tmp_path, capsys, monkeypatch):
    wrong = rule("wrong", "Mul(Sigmoid(x), x)", "Tanh(x)", "is not true",
                 exactness=Exactness.EXACT)  # fmt: skip
    monkeypatch.setattr(rewrite, "RULES", (wrong, *rewrite.RULES))
    folder = tmp_path / "out"
    lines = bisect(capsys, chain, folder)
    assert "rule wrong is at fault" in lines
    assert [line for line in lines if line.startswith("rule ")] == ["rule wrong is at fault"]
    assert (folder / "minimal.onnx").exists()
    assert main(["bisect", str(chain), "--policy", "all", "--disable-rule", "wrong"]) == 0
    assert "nothing is at fault" in capsys.readouterr().out


def test_a_folder_that_cannot_be_made_is_one_line(chain, tmp_path, capsys, monkeypatch):
    right = reuse.lower
    monkeypatch.setattr(reuse, "lower", lambda *a, **o: dataclasses.replace(
        made := right(*a, **o), program=made.program.replace("= sigmoid", "= tanh")))  # fmt: skip
    target = tmp_path / "file"
    target.write_text("")
    assert main(["bisect", str(chain), "--policy", "all", "--output", str(target)]) == 1
    assert capsys.readouterr().err == f"{target}: cannot be written: file exists\n"
