"""The latency database: what is put in comes out, whatever else happens to the file."""

import dataclasses
import json
import multiprocessing
import sqlite3
import sys
from pathlib import Path

import pytest

from onnx_fusion.cli.main import main
from onnx_fusion.errors import OnnxFusionError
from onnx_fusion.runtime import host, latency
from onnx_fusion.runtime.host import Host
from onnx_fusion.runtime.latency import Database, Entry

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))

import ship_latency

HERE = Host("cpu", "avx2", "1.32.0", "0.1.0+abc")


def entry(digest="d", threads=1, shapes="", where=HERE, ratio=0.5):
    where = dataclasses.astuple(where)
    return Entry(digest, shapes, threads, *where, 2e-3, 2e-3 * ratio, 0.4, 0.6, 9, "2 Conv")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "deep" / "latency.sqlite"


def test_what_is_put_in_comes_out(path):
    Database(path).put([entry(), entry(threads=2), entry("e", shapes="1x3")])
    found = Database(path)
    assert found.find("d", "", 1, HERE) == [entry()]
    assert found.find("d", None, None, HERE) == [entry(), entry(threads=2)]
    assert found.find("e", "1x4", 1, HERE) == []
    assert found.find("e", None, 1, HERE) == [entry("e", shapes="1x3")]
    assert len(found.entries()) == 3 and not found.is_empty()
    assert found.clear() == 3 and found.entries() == [] and found.is_empty()


@pytest.mark.parametrize("field", [f.name for f in dataclasses.fields(Host)])
def test_another_machine_or_version_has_other_entries(path, field):
    Database(path).put([entry()])
    other = dataclasses.replace(HERE, **{field: "other"})
    assert Database(path).find("d", "", 1, other) == []
    assert Database(path).find("d", "", 1, None) == [entry()]


def test_a_newer_entry_takes_the_place_of_an_older_one(path):
    database = Database(path)
    database.put([entry()])
    database.put([entry(ratio=0.8)])
    assert [e.ratio for e in database.entries()] == [0.8]


def test_looking_up_makes_no_file(path):
    assert Database(path).find("d", "", 1, HERE) == [] and Database(path).clear() == 0
    assert not path.parent.exists()


def write_many(path, first):
    database = Database(path)
    for k in range(first, first + 50):
        database.put([entry(str(k))])


def test_two_processes_write_at_once(path):
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=write_many, args=(path, first)) for first in (0, 50, 100)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0, 0, 0]
    assert {e.digest for e in Database(path).entries()} == {str(k) for k in range(150)}


def make_foreign(path):
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE bookmarks (url TEXT)")
    connection.close()


def make_other_columns(path):
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE latency (digest TEXT, seconds REAL)")
        connection.execute(f"PRAGMA application_id = {latency.APPLICATION}")
    connection.close()


def make_damaged(path):
    database = Database(path)
    database.put([entry(str(k)) for k in range(400)])
    database.close()
    data = bytearray(path.read_bytes())
    data[8192:40960] = b"\xff" * (40960 - 8192)
    path.write_bytes(data)


def make_wrong_type(path):
    database = Database(path)
    database.put([entry()])
    database.close()
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE latency SET ours = 'fast'")
    connection.close()


@pytest.mark.parametrize("make", [
    lambda path: path.write_bytes(b"this is no database at all" * 99),
    make_foreign, make_other_columns, make_damaged, make_wrong_type,
], ids=["bytes", "foreign", "columns", "damaged", "types"])  # fmt: skip
def test_a_file_that_is_no_latency_database_is_set_aside(path, make, capsys):
    path.parent.mkdir()
    make(path)
    before = path.read_bytes()
    database = Database(path)
    assert database.entries() == []
    database.put([entry()])
    assert Database(path).entries() == [entry()]
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"{path}: is no latency database (") and line.endswith(".aside-1")
    assert Path(f"{path}.aside-1").read_bytes() == before


def test_a_second_one_is_set_aside_beside_the_first(path, capsys):
    path.parent.mkdir()
    for text in ("one" * 999, "two" * 999):
        path.write_text(text)
        Database(path)
    assert Path(f"{path}.aside-1").read_text() == "one" * 999
    assert Path(f"{path}.aside-2").read_text() == "two" * 999


def test_an_empty_file_is_a_new_database(path, capsys):
    path.parent.mkdir()
    path.touch()
    Database(path).put([entry()])
    assert Database(path).entries() == [entry()] and capsys.readouterr().err == ""


def test_a_folder_that_cannot_be_made_is_one_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OnnxFusionError, match="cannot be written"):
        Database(tmp_path / "file" / "latency.sqlite").put([entry()])


def test_a_text_of_entries_is_read_back():
    entries = [entry(), entry("e", 2, "1x3 4")]
    assert latency.read_text(latency.write_text(entries), "text") == entries


@pytest.mark.parametrize(("line", "said"), [
    ("{", "not JSON"),
    ("[]", "a line is one JSON object"),
    ("{}", "an entry has the fields"),
    (json.dumps({**dataclasses.asdict(entry()), "threads": "1"}), "'threads' must be int"),
    (json.dumps({**dataclasses.asdict(entry()), "ours": 0.0}), "are positive"),
    (json.dumps({**dataclasses.asdict(entry()), "ours": float("nan")}), "are positive"),
    (json.dumps({**dataclasses.asdict(entry()), "more": 1}), "an entry has the fields"),
])  # fmt: skip
def test_a_wrong_text_names_the_line(line, said):
    with pytest.raises(OnnxFusionError, match=f"^text: line 2: .*{said}"):
        latency.read_text(latency.write_text([entry()]) + line + "\n", "text")


def test_what_ships_is_read():
    path = Path(latency.__file__).with_name("latency.jsonl")
    for digest, found in latency.read_shipped(path).items():
        assert {e.digest for e in found} == {digest}
    assert latency.read_shipped() == {}


def test_export_clear_and_import(tmp_path, capsys):
    Database().put([entry(), entry("e")])
    file = tmp_path / "out.jsonl"
    assert main(["latency", "export", str(file)]) == 0
    assert main(["latency", "clear"]) == 0
    assert Database().entries() == []
    assert main(["latency", "import", str(file)]) == 0
    assert Database().entries() == [entry(), entry("e")]
    told = capsys.readouterr()
    assert "2 measurements imported" in told.err and told.out == ""
    assert main(["latency", "export", "-"]) == 0
    assert capsys.readouterr().out == file.read_text()


def test_the_list_shows_every_entry(capsys):
    assert main(["latency", "list"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 1
    Database().put([entry(), entry("e", where=dataclasses.replace(HERE, isa="avx512"))])
    assert main(["latency", "list"]) == 0
    head, *rows = capsys.readouterr().out.splitlines()
    assert len(rows) == 2 and all("0.500" in row and "2 Conv" in row for row in rows)


@pytest.mark.parametrize("arguments", [
    ["import", "no/such/file"], ["export", "no/such/file"], ["import", __file__],
])  # fmt: skip
def test_an_error_is_one_line(arguments, capsys):
    assert main(["latency", *arguments]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(arguments[1])


def test_what_ships_is_chosen_from_measurements_and_exports(tmp_path, capsys):
    here = host.this_host()
    other = dataclasses.replace(here, cpu="other")
    whole = dataclasses.replace(entry("w", where=here), what="whole model: 2 Conv")
    precise = dataclasses.replace(entry("b", where=here), ours=1.23456789e-4)
    unclear = dataclasses.replace(entry("u", where=here, ratio=0.9), high=1.1)
    old = entry("old", where=dataclasses.replace(here, library="old"))
    Database().put([precise, whole, unclear, old])
    added = tmp_path / "added.jsonl"
    added.write_text(latency.write_text([entry("a", where=other), entry("b", where=other)]))
    target = tmp_path / "latency.jsonl"
    assert ship_latency.main(["--add", str(added), "--output", str(target)]) == 0
    shipped = latency.read_shipped(target)
    assert {d: [e.cpu for e in found] for d, found in shipped.items()} == {
        "a": ["other"], "b": sorted([here.cpu, "other"])}  # fmt: skip
    assert {e.ours for e in shipped["b"]} == {1e-3, 1.235e-4}
    assert ship_latency.main(["--add", str(tmp_path / "none"), "--output", str(target)]) == 1


def test_the_host_names_the_cpu(tmp_path):
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor\t: 0\nmodel name\t: Fast\ncpu family\t: 25\nmodel\t: 80\n"
                       "stepping\t: 0\n\nprocessor\t: 1\nmodel name\t: Slow\n")  # fmt: skip
    assert host.cpu_model(cpuinfo) == "Fast 25/80/0"
    assert host.cpu_model(tmp_path / "none")
    assert host.this_host().isa in ("base", "avx2", "avx512", "neon")
