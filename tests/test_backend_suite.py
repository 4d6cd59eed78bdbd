"""ONNX's own backend suite through `optimize`: what plain ONNX Runtime passes, passes."""

import importlib
import os
import signal
from pathlib import Path
from types import ModuleType

import pytest

SCRIPTS = Path(__file__).resolve().parent.parent / "scripts"


@pytest.fixture
def suite(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Return the script as a module."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    return importlib.import_module("backend_suite")


def test_every_case_that_plain_onnx_runtime_passes_passes(suite: ModuleType) -> None:
    outcomes = suite.run_all(suite.cases(""), jobs=2)
    counts = suite.summarize(outcomes)
    bad = {
        outcome.name: (outcome.library, outcome.portable)
        for outcome in outcomes
        if outcome.counted and {outcome.library, outcome.portable} != {"passed"}
    }
    assert bad == {}
    assert counts["passed by plain ONNX Runtime"] > 1000
    assert counts["with a region"] >= 500


def test_a_crash_is_that_cases_outcome(suite: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    every = suite.cases("^test_(abs|exp|neg|relu)$")
    run = suite.run

    def crash(case):
        if case.name == "test_exp":
            os.kill(os.getpid(), signal.SIGKILL)
        return run(case)

    monkeypatch.setattr(suite, "run", crash)
    outcomes = {outcome.name: outcome for outcome in suite.run_all(every, jobs=2)}
    assert sorted(outcomes) == ["test_abs", "test_exp", "test_neg", "test_relu"]
    assert outcomes["test_exp"].plain == "passed"
    assert outcomes["test_exp"].library == "crashed with -9"
    assert all(outcomes[f"test_{name}"].library == "passed" for name in ("abs", "neg", "relu"))
