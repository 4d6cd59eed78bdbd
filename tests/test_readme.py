"""What the README tells the reader to type works."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "README.md").read_text()


def blocks(heading: str, language: str = "") -> list[str]:
    """Return the fenced blocks of one section, in order."""
    section = TEXT.split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]
    return re.findall(rf"^```{language}\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)


@pytest.fixture
def folder(tmp_path):
    shutil.copy(ROOT / "models" / "lenet5.onnx", tmp_path / "IN.onnx")
    shutil.copy(ROOT / "models" / "lenet5.onnx", tmp_path / "in.onnx")
    return tmp_path


def test_quickstart_is_one_command_that_is_there():
    first, second = blocks("Quickstart")
    for block, script in ((first, "scripts/quickstart.sh"), (second, "scripts/test.sh")):
        assert block == f"bash {script}\n"
        subprocess.run(["bash", "-n", ROOT / script], check=True)


def test_the_commands_of_use_run(folder):
    for line in blocks("Use")[0].splitlines():
        words = shlex.split(line.split("#")[0])
        assert words[:3] == ["python", "-m", "onnx_fusion"]
        done = subprocess.run(
            [sys.executable, *words[1:]], cwd=folder, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
    assert (folder / "OUT.onnx").exists()


def test_the_python_of_use_runs(folder, monkeypatch):
    import onnx
    import onnxruntime

    import onnx_fusion

    first, second = blocks("Use", "python")
    monkeypatch.chdir(folder)
    onnx.save(onnx_fusion.optimize("in.onnx", policy="all"), "out.onnx")
    names: dict = {}
    exec(first, names)
    got = names["run"](None, {"image": np.ones((1, 1, 32, 32), np.float32)})
    code = second.replace("onnxruntime.Inf", "own = onnxruntime.Inf")
    exec(code, {"onnxruntime": onnxruntime, "onnx_fusion": onnx_fusion} | names)
    assert np.isfinite(got[0]).all()


def test_the_page_of_the_code_names_what_exists():
    text = (ROOT / "onnx_fusion" / "docs" / "code.md").read_text()
    named = re.findall(r"`(onnx_fusion/[\w./*]+)`(?:\s+\(((?:`\w+`(?:, )?)+)\))?", text)
    assert len(named) > 30
    for path, names in named:
        assert (ROOT / path).exists(), path
        for name in re.findall(r"\w+", names):
            source = (ROOT / path).read_text()
            assert re.search(rf"(def|class|::|^) ?{name}\b", source, re.MULTILINE), (path, name)
    table = text.split("| files of")[1].split("\n\n")[0]
    native = ROOT / "onnx_fusion" / "native" / "cpu"
    words = [word for word in re.findall(r"`([\w.*]+)`", table) if word != "plan_contraction"]
    for word in words:
        assert any(native.glob(word if "." in word else f"{word}.*")), word


def test_the_map_names_folders_that_exist():
    for path in re.findall(r"`((?:onnx_fusion|models|scripts)/[a-z_/]*)`", TEXT):
        assert (ROOT / path).exists(), path
