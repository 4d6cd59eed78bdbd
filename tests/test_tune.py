"""What tuning takes, puts back and remembers, with a measurer that makes its times up."""

import dataclasses
import re
import types

import numpy as np
import onnx
import onnx.parser
import pytest
from tune_cases import (
    CHAIN,
    HEAD,
    HOST,
    LINES,
    WITHOUT_SMALL,
    Fake,
    by_kind,
    kinds_of,
    run,
    write_chain,
)

from onnx_fusion import api
from onnx_fusion.cli.main import main
from onnx_fusion.fusion import policy
from onnx_fusion.fusion.template import NAMES
from onnx_fusion.runtime.duel import Outcome
from onnx_fusion.runtime.latency import Database
from onnx_fusion.runtime.surgery import fused_nodes
from onnx_fusion.runtime.verify import verify
from onnx_fusion.tune import decide as rules
from onnx_fusion.tune.measure import Failed, Unfit
from onnx_fusion.tune.run import Tuning


@pytest.fixture
def source(tmp_path):
    return write_chain(tmp_path / "in.onnx")


def test_what_wins_is_taken_and_what_loses_is_not(source, tmp_path):
    fake = Fake(by_kind("Sin"))
    summary = run(source, tmp_path / "out.onnx", fake)
    assert kinds_of(tmp_path / "out.onnx") == {"Tanh", "Softmax", "Sin"}
    assert 0 < summary.regions == len(fused_nodes(onnx.load(tmp_path / "out.onnx")))
    assert fake.asked[-1].startswith("whole ") and "Sin" not in fake.asked[-1]
    assert any("measurements taken, 0 known" in note for note in summary.notes)


def test_a_near_loser_must_not_lose_surely_at_any_number_of_threads(source, tmp_path):
    fake = Fake(lambda kinds, threads: 0.5 if threads == 1 or "Sin" not in kinds else 1.05)
    run(source, tmp_path / "out.onnx", fake, threads=(1, 2))
    assert "Sin" in kinds_of(tmp_path / "out.onnx")


def test_a_unit_is_taken_in_the_way_that_loses_nowhere(source, tmp_path):
    """Though another way is faster on the mean."""
    text = CHAIN.replace("64, 512", "2, 8")
    onnx.save(onnx.parser.parse_model(HEAD + text), source)
    fake = Fake(by_kind("none"))
    fake.part = lambda unit, regions, threads: Outcome(
        1e-3, 1e-3 * (0.8 if len(regions) > 1 else (0.4, 1.04)[threads - 1]), 0.4, 0.9, 5
    )
    summary = run(source, tmp_path / "out.onnx", fake, threads=(1, 2), disabled=())
    assert summary.regions > 1


def test_a_whole_that_loses_with_two_threads_gives_back_what_gains_least_there(source, tmp_path):
    def part(kinds, threads):
        if threads == 1:
            return 0.3 if "Cos" in kinds else 0.6
        return 0.95 if "Cos" in kinds else 0.6

    def whole(kinds, threads):
        return 1.03 if "Cos" in kinds and threads == 2 else 0.5

    summary = run(source, tmp_path / "out.onnx", Fake(part, whole), threads=(1, 2))
    assert kinds_of(tmp_path / "out.onnx") == {"Cos", "Softmax"}
    assert any("(by threads 1: 0.500, 2: 0.500)" in note for note in summary.notes)


@pytest.mark.parametrize("whole,regions", [(0.6, 1), (0.795, 4)])
def test_what_the_estimate_takes_is_tried_as_a_whole(source, tmp_path, whole, regions):
    """The estimate has one region; measured alone, four are faster."""
    onnx.save(onnx.parser.parse_model(HEAD + CHAIN.replace("64, 512", "2, 8")), source)
    assert len(api.plan(str(source)).regions) == 1
    fake = Fake(by_kind("none"))
    fake.part = lambda unit, regions, threads: Outcome(
        1e-3, 1e-3 * (0.5 if len(regions) == 1 else 0.4), 0.4, 0.5, 5
    )
    fake.whole = lambda regions, threads: Outcome(
        1e-3, 1e-3 * (whole if len(regions) == 1 else 0.8), 0.6, 0.8, 5
    )
    assert run(source, tmp_path / "out.onnx", fake, disabled=()).regions == regions


def test_a_second_run_measures_nothing_and_writes_the_same(source, tmp_path):
    first, second, third = (tmp_path / f"{k}.onnx" for k in "123")
    run(source, first, Fake(by_kind("Sin")))
    fake = Fake(by_kind("Cos"))
    told = run(source, second, fake).notes
    assert fake.asked == [] and any(note.startswith("0 measurements taken") for note in told)
    assert first.read_bytes() == second.read_bytes()
    run(source, third, fake, measure=False)
    assert first.read_bytes() == third.read_bytes()


def test_what_was_measured_is_used_without_tuning(source, tmp_path, monkeypatch):
    monkeypatch.setattr(policy, "MARGIN", 0.0)
    plain = api.plan(str(source), **WITHOUT_SMALL)
    run(source, tmp_path / "out.onnx", Fake(by_kind("Sin")))
    tuning = Tuning(host=HOST, shipped={})
    made = api.plan_programs(str(source), tuning=tuning, **WITHOUT_SMALL).plan
    told = {r.producer for r in made.refusals if r.reason.startswith("measured: ")}
    assert told == {"Tanh_0", "Softmax_1"} and len(made.regions) == 3
    assert plain.regions == () and not any("measured" in r.reason for r in plain.refusals)
    other = Tuning(host=dataclasses.replace(HOST, isa="base"), shipped={})
    assert api.plan_programs(str(source), tuning=other, **WITHOUT_SMALL).tuned is None


def test_what_ships_is_used_where_nothing_was_measured(source, tmp_path):
    run(source, tmp_path / "out.onnx", Fake(by_kind("Sin")))
    elsewhere = dataclasses.replace(HOST, cpu="another", library="another")
    shipped = {}
    for entry in Database().entries():
        if not entry.what.startswith("whole"):
            shipped.setdefault(entry.digest, []).append(entry)
    tuning = Tuning(host=elsewhere, shipped=shipped)
    made = api.plan_programs(str(source), tuning=tuning, **WITHOUT_SMALL)
    assert made.plan.regions and any("measured elsewhere" in r.reason for r in made.plan.refusals)
    tuning = Tuning(host=dataclasses.replace(elsewhere, isa="base"), shipped=shipped)
    assert api.plan_programs(str(source), tuning=tuning, **WITHOUT_SMALL).tuned is None


@pytest.mark.parametrize("ratio,regions", [(0.46, 1), (0.44, 4)])
def test_another_way_must_be_much_faster_where_nothing_was_measured(
    source, tmp_path, ratio, regions
):
    """The estimate has one region, which took 0.5 elsewhere; 0.46 would do here."""
    onnx.save(onnx.parser.parse_model(HEAD + CHAIN.replace("64, 512", "2, 8")), source)
    fake = Fake(by_kind("none"))
    fake.part = lambda unit, regions, threads: Outcome(
        1e-3, 1e-3 * (0.5 if len(regions) == 1 else ratio), 0.4, 0.5, 5
    )
    assert run(source, tmp_path / "out.onnx", fake, disabled=()).regions == 4
    tuning = Tuning(host=dataclasses.replace(HOST, library="new"), shipped={})
    assert len(api.plan_programs(str(source), tuning=tuning).plan.regions) == regions


def test_what_another_build_measured_is_a_guess(source, tmp_path):
    """Until this one has measured: a guess must win by more."""
    run(source, tmp_path / "out.onnx", Fake(by_kind("Sin", 0.96)))
    run(source, tmp_path / "again.onnx", Fake(by_kind("Sin")), measure=False)
    assert kinds_of(tmp_path / "again.onnx") == {"Tanh", "Softmax", "Sin"}
    parts = [entry for entry in Database().entries() if not entry.what.startswith("whole")]
    Database().clear()
    Database().put(parts)
    tuning = Tuning(host=dataclasses.replace(HOST, library="new"), shipped={})
    made = api.plan_programs(str(source), tuning=tuning, **WITHOUT_SMALL)
    assert made.tuned is not None and not made.plan.regions
    fake = Fake(by_kind("none"))
    tuning = Tuning(True, (1,), measurer=fake, host=tuning.host, shipped={}, clock=fake.clock)
    assert len(api.plan_programs(str(source), tuning=tuning, **WITHOUT_SMALL).plan.regions) == 4


def test_if_nothing_wins_the_original_is_written(source, tmp_path):
    summary = run(source, tmp_path / "out.onnx", Fake(by_kind("", 2.0)))
    assert (tmp_path / "out.onnx").read_bytes() == source.read_bytes()
    assert summary.regions == 0 and summary.nodes_after == summary.nodes_before
    assert any("the original is written as it is" in note for note in summary.notes)


def test_if_the_whole_loses_the_least_benefit_is_put_back(source, tmp_path):
    benefit = {"Sin": 0.6, "Cos": 0.9, "Exp": 0.4, "": 0.5}
    fake = Fake(
        lambda kinds, threads: next(r for k, r in benefit.items() if k in kinds),
        lambda kinds, threads: 1.2 if "Cos" in kinds else 0.7,
    )
    summary = run(source, tmp_path / "out.onnx", fake)
    assert kinds_of(tmp_path / "out.onnx") == {"Cos", "Softmax"}
    wholes = [asked for asked in fake.asked if asked.startswith("whole")]
    assert len(wholes) == 2 and "Sin" in wholes[1]
    assert any("0.700 of the original's time" in note for note in summary.notes)


def test_if_the_whole_never_wins_the_original_is_written(source, tmp_path):
    fake = Fake(lambda kinds, threads: 0.5, lambda kinds, threads: 1.01)
    run(source, tmp_path / "out.onnx", fake)
    assert (tmp_path / "out.onnx").read_bytes() == source.read_bytes()


@pytest.mark.parametrize(("high", "written"), [(1.0, True), (1.05, False)])
def test_a_whole_that_may_lose_is_not_written(source, tmp_path, high, written):
    """The mean wins, but so few rounds on a busy machine say little."""
    fake = Fake(by_kind("none"))
    fake.whole = lambda regions, threads: Outcome(1e-3, 0.95e-3, 0.85, high, 5)
    run(source, tmp_path / "out.onnx", fake)
    assert ((tmp_path / "out.onnx").read_bytes() != source.read_bytes()) == written


def test_near_losers_are_taken_where_the_whole_gains(source, tmp_path):
    fake = Fake(
        lambda kinds, threads: 1.05 if "Sin" in kinds else 0.5,
        lambda kinds, threads: 0.6 if "Sin" in kinds else 0.7,
    )
    run(source, tmp_path / "out.onnx", fake)
    assert kinds_of(tmp_path / "out.onnx") == set()


def test_what_cannot_be_timed_alone_is_tried_in_the_whole(source, tmp_path):
    def part(kinds, threads):
        if "Sin" in kinds:
            raise Unfit("it cannot be cut out")
        return 0.5

    fake = Fake(part, lambda kinds, threads: 0.6 if "Sin" in kinds else 0.7)
    summary = run(source, tmp_path / "out.onnx", fake)
    assert kinds_of(tmp_path / "out.onnx") == set()
    assert any("could not be timed alone: it cannot be cut out" in n for n in summary.notes)


def test_equal_stretches_are_measured_once(source, tmp_path):
    lines = ["a = Tanh(x)", "b = Softmax(a)", "c = Tanh(b)", "d = Softmax(c)", "e = Tanh(d)",
             "y = Softmax(e)"]  # fmt: skip
    onnx.save(
        onnx.parser.parse_model(HEAD + CHAIN.split("{")[0] + "{" + " ".join(lines) + "}"), source
    )
    fake = Fake(by_kind("Sin"))
    run(source, tmp_path / "out.onnx", fake)
    assert len(fake.asked) <= 4


def test_the_faster_way_to_cut_is_taken(source, tmp_path):
    """With the template "small" all is one region; measured, four are faster."""
    text = CHAIN.replace("64, 512", "2, 8")
    onnx.save(onnx.parser.parse_model(HEAD + text), source)
    whole = len(LINES)
    for slow, regions in ((1.5, 4), (0.3, 1)):
        Database().clear()
        fake = Fake(lambda kinds, threads, slow=slow: slow if len(kinds.split()) == whole else 0.5)
        fake.part = lambda unit, regions, threads, fake=fake, slow=slow: Outcome(
            1e-3, 1e-3 * (slow if len(regions) == 1 else 0.5), 0.1, 0.2, 5)  # fmt: skip
        summary = run(source, tmp_path / "out.onnx", fake, disabled=())
        assert (summary.regions > 1) == (regions > 1)


def test_a_large_unit_is_taken_without_the_quarter_that_loses(tmp_path):
    """Convolutions are one unit for ONNX Runtime; the last one makes it slower."""
    lines = [f"v{k + 1} = Conv(v{k}, w)  r{k} = Sin(v{k + 1})" for k in range(7)]
    text = (
        "g (float[1, 4, 16, 16] v0) => (float[1, 4, 16, 16] y) "
        f"<float[4, 4, 1, 1] w> {{ {' '.join(lines)} y = Conv(v7, w) }}"
    )
    model = onnx.parser.parse_model(HEAD + text)
    for k in range(7):
        model.graph.output.append(onnx.helper.make_tensor_value_info(f"r{k}", 1, (1, 4, 16, 16)))
    weight = np.eye(4, dtype=np.float32).reshape(4, 4, 1, 1)
    model.graph.initializer.append(onnx.numpy_helper.from_array(weight, "w"))
    onnx.save(model, tmp_path / "in.onnx")

    def part(unit, regions, threads):
        last = any(node.outputs[0].name == "y" for region in regions for node in region.nodes)
        return Outcome(1e-3, 1e-3 * (0.9 if last else 0.7), 0.6, 0.95, 5)

    fake = Fake(by_kind(""))
    fake.part = part
    summary = run(tmp_path / "in.onnx", tmp_path / "out.onnx", fake, disabled=tuple(NAMES))
    assert "Conv" in kinds_of(tmp_path / "out.onnx") and summary.regions >= 4
    assert verify(tmp_path / "in.onnx", tmp_path / "out.onnx").passed


def test_the_budget_ends_measuring_with_the_best_so_far(source, tmp_path, monkeypatch):
    monkeypatch.setattr(policy, "MARGIN", 0.0)
    fake = Fake(by_kind("Sin"))
    summary = run(source, tmp_path / "out.onnx", fake, budget=2.5)
    parts = [asked for asked in fake.asked if not asked.startswith("whole")]
    assert len(parts) == 2 and len(fake.asked) == 3
    assert any("the time was up" in note for note in summary.notes)
    assert 0 < summary.regions <= 2
    again = Fake(by_kind("Sin"))
    run(source, tmp_path / "more.onnx", again)
    assert not set(parts) & set(again.asked)
    assert kinds_of(tmp_path / "more.onnx") == {"Tanh", "Softmax", "Sin"}


def test_what_is_written_was_timed_even_if_the_time_is_up(source, tmp_path):
    slow = Fake(by_kind("none"), lambda kinds, threads: 1.2)
    run(source, tmp_path / "out.onnx", slow, budget=0.5)
    assert [asked.startswith("whole") for asked in slow.asked] == [False, True]
    assert (tmp_path / "out.onnx").read_bytes() == source.read_bytes()


def test_the_estimates_choice_is_timed_before_a_model_is_left_as_it_is(
    source, tmp_path, monkeypatch
):
    """Also if the time is up: what a few measurements chose may lose where all of it wins."""
    monkeypatch.setattr(policy, "MARGIN", 100.0)
    fake = Fake(
        lambda kinds, threads: 1.05 if "Sin" in kinds else 0.5,
        lambda kinds, threads: 0.7 if "Sin" in kinds else 1.2,
    )
    summary = run(source, tmp_path / "out.onnx", fake, budget=3.5)
    assert [asked.startswith("whole") for asked in fake.asked[-2:]] == [True, True]
    assert any("the time was up" in note for note in summary.notes)
    assert "Sin" not in kinds_of(tmp_path / "out.onnx") and summary.regions


def test_an_interrupt_keeps_what_was_measured(source, tmp_path):
    fake = Fake(by_kind("Sin"))
    fake.interrupt_at = 3
    with pytest.raises(KeyboardInterrupt):
        run(source, tmp_path / "out.onnx", fake)
    assert not (tmp_path / "out.onnx").exists()
    assert len(Database().entries()) == 2
    again = Fake(by_kind("Sin"))
    run(source, tmp_path / "out.onnx", again)
    assert not set(fake.asked[:2]) & set(again.asked)


def test_progress_says_what_is_left(source, tmp_path):
    told = []
    fake = Fake(by_kind("Sin"))
    tuning = Tuning(True, (1,), 60.0, measurer=fake, host=HOST, shipped={}, clock=fake.clock)
    api.optimize_file(source, tmp_path / "out.onnx", tuning=tuning, **WITHOUT_SMALL,
                      progress=lambda step, fraction: told.append((step, fraction)))  # fmt: skip
    steps = [one for one in told if one[0].startswith("tune")]
    assert [f for _, f in steps] == sorted(f for _, f in steps)
    assert any("left" in step for step, _ in steps)


@pytest.mark.parametrize(("options", "said"), [
    (["--budget", "5"], "--budget says how to measure; it needs --tune"),
    (["--dim", "N=4"], "--dim says how to measure; it needs --tune"),
    (["--tune", "--policy", "all"], "--policy all leaves measured latency nothing to decide"),
    (["--tune", "--dim", "N=4"], "in.onnx: no input has a dim 'N'; there are none"),
    (["--tune", "--inputs", "none.npz"], "none.npz: cannot be read: no such file or directory"),
])  # fmt: skip
def test_an_error_is_one_line(source, tmp_path, options, said, capsys):
    assert main(["optimize", str(source), str(tmp_path / "out.onnx"), *options]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith(said)


@pytest.mark.parametrize("options", [
    ["--budget", "0"], ["--threads", "0"], ["--threads", "a"], ["--dim", "N"], ["--dim", "N=0"],
])  # fmt: skip
def test_a_wrong_option_is_a_usage_error(source, options):
    with pytest.raises(SystemExit) as ended:
        main(["optimize", str(source), "out.onnx", "--tune", *options])
    assert ended.value.code == 2


def test_margins():
    """What decides is stated once; a unit must win more clearly elsewhere than here."""
    assert rules.TAKEN_BY_PRIOR < rules.TAKEN < 1 and rules.WHOLE < 1 < rules.NEAR


def test_what_fails_is_never_taken(source, tmp_path):
    def part(kinds, threads):
        if "Sin" in kinds:
            raise Failed("its results differ from ONNX Runtime's")
        return 0.5

    run(source, tmp_path / "out.onnx", Fake(part, lambda kinds, threads: 0.6))
    assert kinds_of(tmp_path / "out.onnx") == {"Tanh", "Softmax", "Sin"}
    assert any("its results differ" in e.what and e.samples == 0 for e in Database().entries())
    run(source, tmp_path / "again.onnx", Fake(part), measure=False)
    assert (tmp_path / "again.onnx").read_bytes() == (tmp_path / "out.onnx").read_bytes()


def test_a_whole_that_fails_is_never_written(source, tmp_path):
    def whole(kinds, threads):
        raise Failed("it does not run")

    run(source, tmp_path / "out.onnx", Fake(by_kind("Sin"), whole))
    assert (tmp_path / "out.onnx").read_bytes() == source.read_bytes()


def test_a_budget_goes_first_to_kinds_that_take_longest_together(monkeypatch):
    units = [types.SimpleNamespace(nodes=seconds) for seconds in (3.0, 2.0, 0.5, 2.0)]
    monkeypatch.setattr(rules.cost, "peer_seconds", lambda nodes: nodes)
    assert rules.rank(units, ["one", "twice", "small", "twice"]) == [1, 3, 0, 2]


def test_another_way_is_measured_after_every_unit_was(source, tmp_path):
    """Two chains of small extents, each one region or four, beside each other."""
    second = re.sub(r"\b([a-gxy])\b", r"\1\1", " ".join(LINES))
    text = CHAIN.replace("64, 512", "2, 8").replace("x)", "x, float[3, 8] xx)", 1)
    text = text.replace("y)", "y, float[3, 8] yy)", 1).replace(" }", f" {second} }}")
    onnx.save(onnx.parser.parse_model(HEAD + text), source)
    fake, counts = Fake(by_kind("")), []
    part = fake.part
    fake.part = lambda unit, regions, threads: (
        counts.append(len(regions)) or part(unit, regions, threads)
    )
    run(source, tmp_path / "out.onnx", fake, disabled=())
    assert counts == [1, 1, 4, 4]
