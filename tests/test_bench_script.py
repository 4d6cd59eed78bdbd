"""scripts/bench.py: what it counts and tells; that it runs; that a missing peer is no failure."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "scripts"))

import bench  # noqa: E402
import bench_peers  # noqa: E402
from bench_peers import Missing  # noqa: E402

LENET = ROOT / "models" / "lenet5.onnx"


def measured(*samples):
    return bench.Measured(list(samples), 0.1, 1 << 20, "1", 0.0)


def row(regions=1, **engines):
    return bench.Row("model", 1, regions, engines)


def test_a_ratio_is_the_peers_median_over_ours():
    one = row(ours=measured(1.0, 1.0, 9.0), ort=measured(2.0, 2.0, 2.0), openvino=measured(3, 3, 3))
    assert one.ratio("ort")[0] == 2.0 and one.ratio("openvino")[0] == 3.0
    assert one.best() == 2.0
    assert one.ratio("mnn") is None


def test_the_interval_holds_the_ratio():
    rng = np.random.default_rng(0)
    ours = measured(*rng.normal(1.0, 0.05, 40))
    ratio, low, high = row(ours=ours, ort=measured(*rng.normal(1.5, 0.05, 40))).ratio("ort")
    assert low < ratio < high and high - low < 0.2 and abs(ratio - 1.5) < 0.1
    assert row(ours=ours, ort=ours).ratio("ort") == (1.0, 1.0, 1.0)


def test_restarts_count_together():
    """One of four was disturbed, and more than its rounds tell: its own interval is below 1."""
    slow = row(ours=measured(*[2.0] * 9), ort=measured(*[1.8] * 9))
    rows = [row(ours=measured(*[1.0] * 9), ort=measured(*[1.5] * 9)) for _ in range(3)]
    lines = bench.restart_lines([*rows, slow], ["ort"])
    assert lines[0].startswith("model, 1 thread, 4 restarts: ort 1.32 (1.0")
    assert lines[1].startswith("lowest end of an interval over restarts: 1.0")
    assert bench.restart_lines(rows, ["ort"])[0].endswith("ort 1.50 (1.50-1.50)")
    assert bench.restart_lines(rows[:1], ["ort"]) == []


def test_an_unchanged_model_counts_as_one_and_is_marked():
    one = row(0, ort=measured(2.0), openvino=measured(3.0))
    assert one.ratio("ort") == (1.0, 1.0, 1.0) and one.ratio("openvino")[0] == 1.5
    assert "1 (unchanged)" in bench.cells(one, ["ort"])
    (line,) = bench.summary([one, row(ours=measured(1.0), ort=measured(4.0))], ["ort"])
    assert "ort 2.000 (2)" in line and "lowest interval 1.000 (model)" in line


def test_a_failed_engine_has_no_ratio():
    one = row(3, ort=measured(2.0))
    assert one.ratio("ort") is None and "-" in bench.cells(one, ["ort"])


def test_results_are_compared_over_their_range():
    wanted = [np.array([0.0, 10.0], np.float32)]
    assert bench.difference(wanted, [np.array([[0.0, 10.5]], np.float32)]) == pytest.approx(0.05)
    assert np.isnan(bench.difference(wanted, [np.zeros(3, np.float32)]))
    assert np.isnan(bench.difference(wanted, []))


def test_a_missing_peer_is_told(tmp_path, monkeypatch):
    monkeypatch.setenv(bench_peers.VARIABLE, str(tmp_path))
    for peer in ("openvino", "mnn", "ncnn", "onnxslim", "inductor"):
        with pytest.raises(Missing, match="no such file"):
            bench_peers.convert(peer, LENET, {}, tmp_path)


def test_an_unknown_peer_is_a_usage_error(capsys):
    with pytest.raises(SystemExit) as ended:
        bench.main(["--peers", "ort,fast"])
    assert ended.value.code == 2 and "'fast' is not one of" in capsys.readouterr().err


def test_it_runs(tmp_path):
    out = tmp_path / "out.json"
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "bench.py", LENET, "--policy", "all", "--threads", "1",
         "--seconds", "0.1", "--peers", "ort,mnn", "--restarts", "2", "--share",
         "--json", out],
        env={**os.environ, bench_peers.VARIABLE: str(tmp_path)}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "no such file" in done.stderr
    told = json.loads(out.read_text())
    assert len(told["rows"]) == 2
    for one in told["rows"]:
        assert set(one["engines"]) == {"ours", "ort"} and "mnn" in one["missing"]
        assert len(one["engines"]["ours"]["samples"]) >= bench.LEAST_ROUNDS
        assert one["engines"]["ours"]["error"] < 1e-5 and one["engines"]["ort"]["error"] == 0
        assert one["engines"]["ort"]["peak"] > 0 and one["engines"]["ort"]["create"] > 0
    assert "geometric means, 1 thread: ort" in done.stdout
    shares = told["rows"][0]["shares"]
    assert shares and sum(shares.values()) == pytest.approx(1)
    assert set(shares) <= {"convolution", "matrix product", "rows", "element-wise"}
