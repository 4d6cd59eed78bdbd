"""The layers of the package, read off the source: each imports only from those above it."""

import ast
from pathlib import Path

import onnx.defs
import pytest

PACKAGE = Path(__file__).parents[1] / "onnx_fusion"
LAYERS = [
    {"errors", "dtypes"},
    {"program"},
    {"graph"},
    {"ops"},
    {"passes"},
    {"fusion"},
    {"lower"},
    {"emit"},
    {"runtime"},
    {"tune"},
    {"api"},
    {"cli"},
]
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}
FILES = sorted(PACKAGE.rglob("*.py"))


def layer_of(path):
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imports(path):
    """Yield the layers that a file imports when it runs (not those for type checkers only)."""
    tree = ast.parse(path.read_text())
    hidden = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in hidden:
            continue
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module] + [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            parts = name.split(".")
            if parts[0] == "onnx_fusion" and len(parts) > 1 and parts[1] in RANK:
                yield parts[1]


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_up(path):
    layer = layer_of(path)
    if layer in ("__init__", "__main__"):
        return
    assert layer in RANK, f"{layer} has no place in the layers"
    for imported in imports(path):
        assert RANK[imported] <= RANK[layer], f"{layer} imports {imported}, which is below it"


@pytest.mark.parametrize(
    "path",
    [p for p in FILES if layer_of(p) in ("fusion", "lower")],
    ids=lambda p: str(p.relative_to(PACKAGE)),
)
def test_algorithms_do_not_know_operators(path):
    known = {schema.name for schema in onnx.defs.get_all_schemas()} - {"If"}
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            assert node.value not in known, f"line {node.lineno} names the operator {node.value}"


def test_only_the_glue_knows_onnx_runtime():
    for path in (PACKAGE / "native").rglob("*"):
        if path.suffix in (".h", ".cc", ".inl") and "ort" not in path.relative_to(PACKAGE).parts:
            assert "Ort" not in path.read_text(), f"{path.name} knows ONNX Runtime"
            assert '"ort/' not in path.read_text(), f"{path.name} includes the glue"
