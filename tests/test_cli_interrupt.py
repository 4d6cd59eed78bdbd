"""Ctrl-C: one line, exit 130, nothing left behind, whenever it comes."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from test_cli_errors import model, put, snapshot

import onnx_fusion
from onnx_fusion.cli import main as command_line
from onnx_fusion.cli import optimize


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("options", [[], ["--verify"]])
def test_an_interrupt_before_the_last_step_leaves_nothing(
    options: list[str],
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    """The file is complete under another name; then the user interrupts."""
    put(model(), "model.onnx")
    Path("out.onnx").write_bytes(b"before")
    before = snapshot(folder)

    def interrupt(*_: object) -> None:
        assert len(snapshot(folder)) > len(before)
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupt)
    assert command_line.main(["optimize", "model.onnx", "out.onnx", *options]) == 130
    assert capsys.readouterr() == ("", "interrupted\n")
    assert snapshot(folder) == before


def test_ctrl_c_at_any_time(folder: Path) -> None:
    body = "a0 = Relu(x) " + " ".join(f"a{i + 1} = Sigmoid(a{i})" for i in range(4000))
    put(model(f"{body} y = Exp(a4000)"), "model.onnx")
    before = snapshot(folder)
    command = [sys.executable, "-m", "onnx_fusion", "optimize", "model.onnx", "out.onnx"]
    root = str(Path(onnx_fusion.__file__).resolve().parent.parent)
    path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    codes = []
    for seconds in (0.7, 1.1):
        with contextlib.suppress(FileNotFoundError):
            os.remove("out.onnx")
        running = subprocess.Popen(
            [*command, "--policy", "all"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": path},
        )
        time.sleep(seconds)
        running.send_signal(signal.SIGINT)
        _, said = running.communicate(timeout=60)
        codes.append(running.returncode)
        if running.returncode:
            assert (running.returncode, said) == (130, b"interrupted\n")
            assert snapshot(folder) == before
    assert 130 in codes


@pytest.mark.parametrize("comes", [True, False])
def test_an_extension_module_that_turns_it_into_another_error(
    comes: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """As NumPy's do while they are imported; without an interrupt the error is what it says."""
    interrupt = command_line.Interrupt()

    def load(_: object) -> None:
        with contextlib.suppress(KeyboardInterrupt):
            if comes:
                interrupt()
        raise ImportError("initialization failed")

    monkeypatch.setattr(optimize, "run", load)
    code = command_line.main(["optimize", "model.onnx", "out.onnx"], interrupt)
    said = "interrupted" if comes else "ImportError: initialization failed"
    assert (code, capsys.readouterr()) == (130 if comes else 1, ("", f"{said}\n"))
