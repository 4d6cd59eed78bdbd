"""What `explain` writes and says of a plan: the page, the Graphviz file, one node."""

import json
import random
import re
import sys
import time
from pathlib import Path

import onnx
import onnx.parser
import pytest

from onnx_fusion import api
from onnx_fusion.cli.layout import place
from onnx_fusion.cli.main import main
from onnx_fusion.cli.page import COLOURS, write_html
from onnx_fusion.cli.sketch import sketch
from onnx_fusion.ops.mapping import MappingType

ROOT = Path(__file__).parents[1]
LENET = str(ROOT / "models" / "lenet5.onnx")
MODELS = sorted((ROOT / "models").glob("*.onnx"))
sys.path.insert(0, str(ROOT / "scripts"))

import plan_scaling  # noqa: E402

HEAD = '<ir_version: 8, opset_import: ["" : 17]>\n'


def data_of(page):
    (found,) = re.findall(r'<script id="data" type="application/json">(.*?)</script>', page, re.S)
    return json.loads(found)


def overlap(one, other):
    x, y, w, h = one
    u, v, s, t = other
    return x < u + s and u < x + w and y < v + t and v < y + h


def check_places(boxes):
    by_left = sorted(boxes)
    for k, one in enumerate(by_left):
        for other in by_left[k + 1 :]:
            if other[0] >= one[0] + one[2]:
                break
            assert not overlap(one, other), (one, other)


@pytest.mark.parametrize("seed", range(8))
def test_boxes_do_not_overlap_and_edges_lead_down(seed):
    chance = random.Random(seed)
    count = chance.randrange(1, 120)
    sizes = [(chance.uniform(10, 200), chance.uniform(10, 60)) for _ in range(count)]
    edges = sorted({
        tuple(sorted(chance.sample(range(count), 2))) for _ in range(2 * count) if count > 1
    })  # fmt: skip
    drawing = place(sizes, edges)
    boxes = [(b.x, b.y, b.width, b.height) for b in drawing.boxes]
    assert [box[2:] for box in boxes] == sizes
    check_places([(x + 1e-6, y, w - 2e-6, h) for x, y, w, h in boxes])
    for (source, target), route in zip(edges, drawing.routes, strict=True):
        between = [y for _, y in route or ()]
        heights = [boxes[source][1] + boxes[source][3], *between, boxes[target][1]]
        assert heights == sorted(heights)
    assert all(x >= -1e-6 and x + w <= drawing.width + 1e-6 for x, _, w, _ in boxes)
    assert all(y >= 0 and y + h <= drawing.height + 1e-6 for _, y, _, h in boxes)


def test_what_every_layer_reads_has_no_route():
    """A chain of 60, each of which reads the first: routes would fill the drawing."""
    edges = sorted({(k, k + 1) for k in range(60)} | {(0, k) for k in range(2, 61)})
    drawing = place([(40, 20)] * 61, edges)
    routed = [e for e, route in zip(edges, drawing.routes, strict=True) if route is not None]
    assert (0, 8) in routed and (0, 9) not in routed and (59, 60) in routed
    assert drawing.width < 400


def test_a_chain_is_straight():
    drawing = place([(10, 10), (50, 10), (30, 10)], [(0, 1), (1, 2)])
    assert len({b.x + b.width / 2 for b in drawing.boxes}) == 1


@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.stem)
def test_the_page_has_every_node_and_region(path):
    planned = api.plan_programs(path, policy="all")
    page = write_html(planned, path.name)
    told = data_of(page)
    graph = planned.graph
    assert len(told["nodes"]) == len(graph.nodes)
    programs = {one.region.name: one.program for one in planned.lowered}
    assert {r["name"]: r["program"] for r in told["regions"]} == programs
    for number, region in enumerate(told["regions"]):
        x, y, w, h = region["box"]
        for node in region["nodes"]:
            assert told["nodes"][node]["region"] == number
            u, v, s, t = told["nodes"][node]["box"]
            assert x <= u and y <= v and u + s <= x + w and v + t <= y + h
    check_places([r["box"] for r in told["regions"]])
    check_places([n["box"] for n in told["nodes"]])
    pairs = {tuple(edge["ends"]) for edge in told["edges"]}
    made = {v for n in graph.nodes for v in n.outputs if v is not None and not v.weight}
    assert len(pairs) == len({(v.producer, n) for v in made for n in v.consumers})
    assert len(told["refusals"]) == len(planned.plan.refusals)


def test_the_page_needs_no_network_and_escapes_names():
    text = 'g (float[4] x) => (float[4] y) { a = Relu(x) y = Exp(a) }'
    model = onnx.parser.parse_model(HEAD + text)
    model.graph.node[0].name = "</script><b>"
    page = write_html(api.plan_programs(model, policy="all"), "<m>")
    assert "http" not in page and "src=" not in page and "@import" not in page
    assert "<title>&lt;m&gt;</title>" in page and "</script><b>" not in page
    assert data_of(page)["regions"]


def test_bodies_are_drawn_below(tmp_path):
    text = """g (bool c, float[64] x) => (float[64] y) {
        y = If (c) <
            then_branch = t () => (float[64] p) { k = Exp(x)  p = Neg(k) },
            else_branch = e () => (float[64] q) { q = Neg(x) } > }"""
    planned = api.plan_programs(onnx.parser.parse_model(HEAD + text), policy="all")
    told = sketch(planned)
    assert sorted(n["op"] for n in told["nodes"]) == ["Exp", "If", "Neg", "Neg"]
    check_places([n["box"] for n in told["nodes"]])


def test_a_large_model_is_drawn_in_time():
    planned = api.plan_programs(plan_scaling.transformer(2500), policy="all")
    start = time.perf_counter()
    page = write_html(planned, "large")
    assert time.perf_counter() - start < 10
    assert len(page) < 8_000_000
    check_places([r["box"] for r in data_of(page)["regions"]])


def test_every_mapping_type_has_a_colour():
    assert set(COLOURS) == {kind.value for kind in MappingType}
    script = (ROOT / "onnx_fusion" / "cli" / "page.js").read_text()
    assert dict(re.findall(r'"([a-z-]+)": "(#[0-9a-f]{6})"', script)) == COLOURS


def test_files_are_written_and_nothing_is_printed(tmp_path, capsys):
    page, dot = tmp_path / "p.html", tmp_path / "p.dot"
    assert main(["explain", LENET, "--policy", "all", "--html", str(page), "--dot", str(dot)]) == 0
    assert capsys.readouterr().out == ""
    assert sorted(p.name for p in tmp_path.iterdir()) == ["p.dot", "p.html"]
    assert "<b>14 → 1</b><span>operators (14.00x fewer)</span>" in page.read_text()
    lines = dot.read_text().splitlines()
    assert lines[0] == 'digraph "lenet5.onnx, policy all" {' and lines[-1] == "}"
    assert sum('label="Conv"' in line for line in lines) == 2
    assert sum("subgraph" in line for line in lines) == 1
    assert sum("->" in line for line in lines) == 11


@pytest.mark.parametrize("option", ["--html", "--dot"])
def test_an_unwritable_file_is_one_line(option, tmp_path, capsys):
    target = tmp_path / "missing" / "p"
    assert main(["explain", LENET, option, str(target)]) == 1
    assert capsys.readouterr().err == f"{target}: cannot be written: no such file or directory\n"


def test_the_model_itself_is_never_written(tmp_path, capsys):
    path = tmp_path / "m.onnx"
    path.write_bytes(Path(LENET).read_bytes())
    assert main(["explain", str(path), "--html", str(path)]) == 1
    assert "is the input itself" in capsys.readouterr().err
    assert path.read_bytes() == Path(LENET).read_bytes()


def explain_node(capsys, path, name, *options):
    assert main(["explain", str(path), "--policy", "all", "--node", name, *options]) == 0
    return capsys.readouterr().out.splitlines()


def test_a_node_in_a_region(capsys):
    head, region = explain_node(capsys, LENET, "/bn1/BatchNormalization")[:2]
    assert head == (
        "/bn1/BatchNormalization: Conv, many-to-many, "
        "made of /conv1/Conv, /bn1/BatchNormalization"
    )
    assert region.startswith("  in region_0 (many-to-many, template small): /conv1/Conv, ")


def test_nodes_that_stay(tmp_path, capsys):
    text = """g (float[64] x) => (int64[1, N] y) {
        a = Relu(x)  b = Abs(a)  y = NonZero(b) }"""
    model = onnx.parser.parse_model(HEAD + text)
    path = tmp_path / "m.onnx"
    onnx.save(model, path)
    head, where, *refusals = explain_node(capsys, path, "NonZero_2")
    assert head == "NonZero_2: NonZero, opaque" and where.startswith("  in no region: ")
    assert refusals and all("-> NonZero_2: " in line for line in refusals)
    _, _, skipped = explain_node(capsys, path, "Relu_0", "--skip", "Relu")
    assert skipped.endswith("skipped by request")
    assert main(["explain", str(path), "--node", "nobody"]) == 1
    told = "nobody: no node has this name; see 'explain --json' for names\n"
    assert capsys.readouterr().err == told
