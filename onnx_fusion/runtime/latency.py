"""The latency database: what was measured on this machine, and what ships with the package.

A SQLite file in the user's cache directory. Several processes may use it at once; each entry is a
transaction. A file that is no database, or not this one, is set aside with a warning, never used
and never deleted.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import os
import sqlite3
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import platformdirs

from onnx_fusion.errors import OnnxFusionError
from onnx_fusion.runtime.host import Host

VARIABLE = "ONNX_FUSION_CACHE"
APPLICATION = 0x4F4E4658
"""SQLite's application_id, which says whose file it is."""
FORMAT = 1
"""The number in the file's name: another version of the package may use another one beside it."""
WAIT_SECONDS = 30.0
SHIPPED = Path(__file__).with_name("latency.jsonl")


@dataclasses.dataclass(frozen=True, slots=True)
class Entry:
    """Seconds of one run: ONNX Runtime's for the original operators, and this project's.

    `digest` says what was measured, `shapes` at which sizes ("" if all are in the digest); `low`
    and `high` bound `ratio` (95 %). `what` is for people.
    """

    digest: str
    shapes: str
    threads: int
    cpu: str
    isa: str
    ort: str
    library: str
    theirs: float
    ours: float
    low: float
    high: float
    samples: int
    what: str

    @property
    def ratio(self) -> float:
        """What this project takes of ONNX Runtime's time: below 1 is faster."""
        return self.ours / self.theirs

    @property
    def host(self) -> Host:
        """Where it was measured."""
        return Host(self.cpu, self.isa, self.ort, self.library)


COLUMNS = tuple(field.name for field in dataclasses.fields(Entry))
KEY = COLUMNS[:7]
_TYPES = {"str": "TEXT", "int": "INTEGER", "float": "REAL"}
_TABLE = "CREATE TABLE IF NOT EXISTS latency ({}, PRIMARY KEY ({}))".format(
    ", ".join(f"{f.name} {_TYPES[f.type]} NOT NULL" for f in dataclasses.fields(Entry)),
    ", ".join(KEY),
)


class Foreign(Exception):
    """The file is not a latency database of this format."""


def default_path() -> Path:
    """Return where the user's database is; ONNX_FUSION_CACHE names another folder."""
    folder = os.environ.get(VARIABLE) or platformdirs.user_cache_dir("onnx_fusion", appauthor=False)
    return Path(folder) / f"latency-{FORMAT}.sqlite"


def say(text: str) -> None:
    """Print one line of warning to stderr."""
    print(text, file=sys.stderr)


class Database:
    """The entries in one file, which is made when the first is put in."""

    def __init__(self, path: str | os.PathLike[str] | None = None) -> None:
        self.path = Path(path) if path is not None else default_path()
        self._connection: sqlite3.Connection | None = None
        if self.path.exists():
            self._open()

    def find(
        self, digest: str, shapes: str | None, threads: int | None, host: Host | None
    ) -> list[Entry]:
        """Return what was measured there; at any sizes, with any threads, anywhere if None."""
        where = {"digest": digest, "shapes": shapes, "threads": threads}
        where = {name: value for name, value in where.items() if value is not None}
        return self._select({**where, **(dataclasses.asdict(host) if host is not None else {})})

    def entries(self) -> list[Entry]:
        """Return all entries, in the order of their keys."""
        return self._select({})

    def put(self, entries: Iterable[Entry]) -> int:
        """Store entries, each in place of an older one of the same key; return how many.

        Raises OnnxFusionError if the file cannot be written.
        """
        rows = [dataclasses.astuple(entry) for entry in entries]
        marks = ", ".join("?" * len(COLUMNS))
        with self._writing() as connection, connection:
            connection.executemany(f"INSERT OR REPLACE INTO latency VALUES ({marks})", rows)
        return len(rows)

    def is_empty(self) -> bool:
        """Return whether nothing was measured at all."""
        return not self._select({}, most=1)

    def clear(self) -> int:
        """Remove all entries and return how many there were."""
        if not self.path.exists():
            return 0
        with self._writing() as connection, connection:
            return connection.execute("DELETE FROM latency").rowcount

    def close(self) -> None:
        """Close the file."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _select(self, where: dict[str, object], most: int = -1) -> list[Entry]:
        if self._connection is None:
            return []
        conditions = " AND ".join(f"{name} = ?" for name in where) or "1"
        text = (
            f"SELECT {', '.join(COLUMNS)} FROM latency WHERE {conditions} "
            f"ORDER BY {', '.join(KEY)} LIMIT {most}"
        )
        try:
            rows = self._connection.execute(text, tuple(where.values())).fetchall()
            return [checked(dict(zip(COLUMNS, row, strict=True))) for row in rows]
        except (sqlite3.DatabaseError, ValueError) as error:
            self.close()
            self._set_aside(str(error))
            return []

    @contextlib.contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        try:
            if self._connection is None:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self._open(create=True)
            if self._connection is None:
                raise OnnxFusionError(f"{self.path}: cannot be opened")
            yield self._connection
        except (OSError, sqlite3.Error) as error:
            said = getattr(error, "strerror", None) or str(error)
            raise OnnxFusionError(f"{self.path}: cannot be written: {said.lower()}") from None

    def _open(self, create: bool = False) -> None:
        try:
            if create:
                with locked(self.path):
                    self._connection = connect(self.path)
            else:
                self._connection = connect(self.path)
        except sqlite3.OperationalError as error:
            # Locked for too long, or not ours to read: there is nothing wrong with the file itself.
            if create:
                raise
            say(f"{self.path}: cannot be read ({error}), so no measured latency is used")
        except (sqlite3.DatabaseError, Foreign) as error:
            self._set_aside(str(error))
            if create:
                self._connection = connect(self.path)

    def _set_aside(self, reason: str) -> None:
        """Rename the file, unless another process has done so meanwhile."""
        try:
            with locked(self.path):
                if self.path.exists() and not is_sound(self.path):
                    aside = free_name(self.path)
                    for suffix in ("", "-wal", "-shm"):
                        with contextlib.suppress(FileNotFoundError):
                            os.replace(f"{self.path}{suffix}", f"{aside}{suffix}")
                    say(
                        f"{self.path}: is no latency database ({reason}); set aside as {aside.name}"
                    )
        except OSError as error:
            say(f"{self.path}: is no latency database ({reason}), and stays: {error.strerror}")


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold what only one process at a time may do: make the file, or set it aside."""
    with open(f"{path}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def connect(path: Path) -> sqlite3.Connection:
    """Return a connection to the database, made if there is none.

    Raises Foreign for someone else's, sqlite3's errors for what is none.
    """
    connection = sqlite3.connect(path, timeout=WAIT_SECONDS)
    try:
        (whose,) = connection.execute("PRAGMA application_id").fetchone()
        (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if whose != APPLICATION and (whose or tables):
            raise Foreign("it is another program's")
        if whose != APPLICATION or not tables:
            # SQLite does not wait for other processes when it changes the journal.
            connection.execute("PRAGMA journal_mode = WAL")
            with connection:
                connection.execute(_TABLE)
                connection.execute(f"PRAGMA application_id = {APPLICATION}")
        found = tuple(row[1] for row in connection.execute("PRAGMA table_info(latency)"))
        if found != COLUMNS:
            raise Foreign("its columns are others")
    except BaseException:
        connection.close()
        raise
    return connection


def is_sound(path: Path) -> bool:
    """Return whether all of a file can be read as a latency database."""
    try:
        connection = connect(path)
    except (sqlite3.DatabaseError, Foreign):
        return False
    try:
        for row in connection.execute(f"SELECT {', '.join(COLUMNS)} FROM latency"):
            checked(dict(zip(COLUMNS, row, strict=True)))
        return True
    except (sqlite3.DatabaseError, ValueError):
        return False
    finally:
        connection.close()


def free_name(path: Path) -> Path:
    """Return a name beside the file that nothing has."""
    count = 1
    while (aside := path.with_name(f"{path.name}.aside-{count}")).exists():
        count += 1
    return aside


def checked(fields: dict[str, object]) -> Entry:
    """Return the entry of these fields; raise ValueError if one is missing or of another type."""
    if fields.keys() != set(COLUMNS):
        raise ValueError(f"an entry has the fields {', '.join(COLUMNS)}")
    made = {}
    for field in dataclasses.fields(Entry):
        value = fields[field.name]
        if field.type == "float" and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if type(value).__name__ != field.type:
            raise ValueError(f"'{field.name}' must be {field.type}, not {value!r}")
        made[field.name] = value
    entry = Entry(**made)
    numbers = (entry.theirs, entry.ours, entry.low, entry.high)
    if not all(0 < number < 1e9 for number in numbers) or entry.threads < 1:
        raise ValueError("times, bounds and threads are positive")
    return entry


def write_text(entries: Iterable[Entry]) -> str:
    """Return entries as text: one JSON object a line."""
    return "".join(json.dumps(dataclasses.asdict(entry)) + "\n" for entry in entries)


def read_text(text: str, where: str) -> list[Entry]:
    """Return the entries of such a text; raise OnnxFusionError that names the line at fault."""
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        try:
            fields = json.loads(line)
            if not isinstance(fields, dict):
                raise ValueError("a line is one JSON object")
            found.append(checked(fields))
        except ValueError as error:
            said = "not JSON" if isinstance(error, json.JSONDecodeError) else str(error)
            raise OnnxFusionError(f"{where}: line {number}: {said}") from None
    return found


def read_shipped(path: Path | None = None) -> dict[str, list[Entry]]:
    """Return what ships with the package, by digest: a guess where nothing was measured."""
    found: dict[str, list[Entry]] = {}
    path = path or SHIPPED
    if path.exists():
        for entry in read_text(path.read_text(), str(path)):
            found.setdefault(entry.digest, []).append(entry)
    return found
