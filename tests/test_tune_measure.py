"""Tuning that measures: interrupted, on sizes given or found, and with kernels that are wrong."""

import dataclasses
import signal
import subprocess
import sys
import time

import numpy as np
import onnx
import onnx.parser
import pytest
from tune_cases import (
    HEAD,
    write_chain,
)

from onnx_fusion import api
from onnx_fusion.cli.main import main
from onnx_fusion.lower import reuse
from onnx_fusion.runtime.latency import Database
from onnx_fusion.runtime.verify import verify
from onnx_fusion.tune import measure
from onnx_fusion.tune.measure import Failed
from onnx_fusion.tune.run import Tuning


@pytest.fixture
def source(tmp_path):
    return write_chain(tmp_path / "in.onnx")


def test_an_interrupted_command_says_so_in_two_lines(source, tmp_path):
    command = [sys.executable, "-m", "onnx_fusion", "optimize", source, tmp_path / "out.onnx"]
    running = subprocess.Popen([*command, "--tune", "--threads", "1,2"], stderr=subprocess.PIPE)
    deadline = time.monotonic() + 60
    while not Database().entries() and time.monotonic() < deadline:
        time.sleep(0.05)
    running.send_signal(signal.SIGINT)
    told = running.communicate(timeout=60)[1].decode().splitlines()
    assert running.returncode == 130
    assert told == ["what was measured is kept; another run goes on from there", "interrupted"]
    assert Database().entries() and not (tmp_path / "out.onnx").exists()


def test_tuning_measures_for_real(source, tmp_path, capsys):
    """Nothing is assumed of the times, only that the result is right and the second run equal."""
    outs = [tmp_path / f"{k}.onnx" for k in "12"]
    for out in outs:
        assert main(["optimize", str(source), str(out), "--tune", "--threads", "1"]) == 0
    told = capsys.readouterr().err
    assert "0 measurements taken" in told and "0 known" in told
    assert outs[0].read_bytes() == outs[1].read_bytes()
    assert verify(source, outs[0]).passed
    assert all(entry.samples >= 5 for entry in Database().entries()) and Database().entries()


def test_symbolic_sizes_are_given_or_told(tmp_path, capsys):
    path, out = tmp_path / "in.onnx", str(tmp_path / "out.onnx")
    text = "g (float[N, 64] x) => (float[N, 64] y) { a = Tanh(x) b = Softmax(a) y = Sin(b) }"
    onnx.save(onnx.parser.parse_model(HEAD + text), path)
    tune = ["optimize", str(path), out, "--tune", "--threads", "1"]
    assert main(tune) == 0
    assert "measured with N=1; --dim gives other sizes" in capsys.readouterr().err
    assert main([*tune, "--dim", "N=32"]) == 0
    assert "measured with N=32" in capsys.readouterr().err
    np.savez(tmp_path / "x.npz", x=np.ones((5, 64), np.float32))
    assert main([*tune, "--inputs", str(tmp_path / "x.npz")]) == 0
    assert "--dim" not in capsys.readouterr().err
    assert {entry.shapes for entry in Database().entries()} >= {"1x64", "32x64", "5x64"}


def test_a_body_that_reads_symbolic_sizes_is_told_to_be_one(tmp_path, capsys):
    """What goes in is no value of the graph: it was asked for as one, and ONNX Runtime's error was
    told."""
    path = tmp_path / "in.onnx"
    body = """Scan <num_scan_inputs = 1, body = step (float[N] prev, float[N] row) =>
        (float[N] next, float[N] made) { a = Tanh(row)  b = Sin(prev)  c = Mul(a, b)
        next = Exp(c)  made = Cos(c) }>"""
    text = f"""g (float[N] s, float[16, N] x) => (float[N] e, float[16, N] y) {{
      e, y = {body} (s, x) }}"""
    onnx.save(onnx.parser.parse_model(HEAD + text), path)
    tune = ["optimize", str(path), str(tmp_path / "out.onnx"), "--tune", "--threads", "1"]
    assert main(tune) == 0
    told = capsys.readouterr().err
    assert "1 stretch could not be timed alone: it is inside a body\n" in told


def test_a_wrong_kernel_is_found_out(source, tmp_path, monkeypatch):
    """The real measurer compares results before it times anything."""
    right = reuse.lower

    def lower(region, graph, *args, **options):
        made = right(region, graph, *args, **options)
        return dataclasses.replace(made, program=made.program.replace("= sin ", "= cos "))

    monkeypatch.setattr(reuse, "lower", lower)
    assert main(["optimize", str(source), str(tmp_path / "out.onnx"), "--tune", "--threads", "1",
                 "--disable-rule", "small"]) == 0  # fmt: skip
    monkeypatch.undo()
    assert verify(source, tmp_path / "out.onnx").passed


@pytest.mark.parametrize("seconds,taken", [(60.0, True), (0.0, False)])
def test_rounding_that_float64_excuses_is_no_failure(tmp_path, monkeypatch, seconds, taken):
    """The logarithm of what is nearly 0 is noise in ONNX Runtime, too: more than a tenth of it."""
    text = (
        "g (float[4, 64] x) => (float[4, 1] y) { s = Softmax(x) t = ReduceSum(s, axis) "
        "d = Sub(t, one) a = Abs(d) b = Add(a, tiny) y = Log(b) }"
    )
    model = onnx.parser.parse_model(
        HEAD + text.replace("{ s", "<int64[1] axis = {1}, float[1] one = {1}, "
                            "float[1] tiny = {1e-9}> { s"))  # fmt: skip
    onnx.save(model, tmp_path / "in.onnx")
    x = np.random.default_rng(0).standard_normal((4, 64)).astype(np.float32)
    failed = []
    real = measure.Measurer.compare

    def compare(self, theirs, ours, wanted, got):
        self.judging = seconds
        try:
            real(self, theirs, ours, wanted, [np.float32(9e-1) * wanted[0]])
        except Failed as error:
            failed.append(str(error))

    monkeypatch.setattr(measure.Measurer, "compare", compare)
    tuning = Tuning(True, (1,), None, {"x": x}, shipped={})
    api.optimize_file(tmp_path / "in.onnx", tmp_path / "out.onnx", tuning=tuning)
    assert not failed if taken else failed and "its results differ" in failed[0]


def test_an_output_that_declares_a_wrong_rank_is_timed(tmp_path):
    """ONNX Runtime warns and runs such models; bound outputs it refuses."""
    text = "g (float[N, M] x) => (float[N] y) { a = Tanh(x) b = Softmax(a) y = Sin(b) }"
    onnx.save(onnx.parser.parse_model(HEAD + text), tmp_path / "in.onnx")
    options = ["--tune", "--threads", "1", "--dim", "N=4", "--dim", "M=8"]
    out = tmp_path / "out.onnx"
    assert main(["optimize", str(tmp_path / "in.onnx"), str(out), *options]) == 0
    assert out.exists() and Database().entries()


def test_a_difference_is_small_only_where_both_are_finite():
    wanted = np.array([1, -np.inf, 100], np.float32)
    assert measure.is_near(wanted, wanted * np.float32(1.001))
    assert not measure.is_near(wanted, wanted + np.array([0, 0, 2], np.float32))
    for place, value in ((0, np.nan), (1, -1e9), (2, np.inf)):
        got = wanted.copy()
        got[place] = value
        assert not measure.is_near(wanted, got)
