"""The run folder: rows are appended and flushed as they finish, documents are replaced atomically, nothing is left half-written.

What the files mean is in docs/run_folder.md; columns are in `columns.py`; reading a folder back is `summary.py`'s business.
"""

from __future__ import annotations

import csv
import io
import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol, TextIO

from testbed.errors import RunError
from testbed.orchestrator.fidelity import PairFacts

FORMAT = 1
"""Version of the folder's format, in the manifest."""


def seconds(value: float) -> str:
    """A duration or moment, to the nanosecond."""
    return f"{value:.9f}"


def plain(value: Any) -> Any:
    """The same value for JSON: infinite and undefined numbers become strings, sets lists, keys strings."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in (sorted(value) if isinstance(value, set | frozenset) else value)]
    if isinstance(value, str | int | float | bool) or value is None:
        return value
    return str(value)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an operating system's refusal (disk full, quota, medium gone) into a RunError that names the file."""
    try:
        yield
    except OSError as error:
        raise _refused(path, error) from error


def _refused(path: Path, error: OSError) -> RunError:
    return RunError(f"{path} cannot be written: {error.strerror or error}")


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    """Replace a JSON file in one step: a reader sees the old text or the new, never a part. Raises RunError."""
    scratch = path.with_name(path.name + ".tmp")
    try:
        with writing(path):
            scratch.unlink(missing_ok=True)  # also a link that somebody has put there: it is not followed
        with writing(path), scratch.open("x", encoding="utf-8") as file:
            json.dump(plain(document), file, indent=2, ensure_ascii=False)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
    except RunError:
        scratch.unlink(missing_ok=True)
        raise
    os.replace(scratch, path)


class TableSink(Protocol):
    """What rows of a table go to: a file here, memory in `memory.py`."""

    def add(self, row: Mapping[str, object]) -> None: ...

    def add_values(self, values: list[object]) -> None: ...


class StepSink(Protocol):
    """What the steps of a request go to, all of them at once."""

    def add_lines(self, text: str) -> None: ...


class LineSink(Protocol):
    """What records go to."""

    def add(self, record: Mapping[str, Any]) -> None: ...


class Recorder(Protocol):
    """What a run's results go to."""

    manifest: dict[str, Any]

    @property
    def inferences(self) -> TableSink: ...

    @property
    def steps(self) -> StepSink | None:
        """None where nobody keeps them."""
        ...

    @property
    def links(self) -> TableSink: ...

    @property
    def plans(self) -> LineSink: ...

    @property
    def faults(self) -> TableSink | None:
        """None where the scenario has neither faults nor recovery; then inferences have no columns of recovery either."""
        ...

    def save_manifest(self, **facts: Any) -> None: ...

    def session_over(self, facts: PairFacts, epoch: int) -> None:
        """A session is over, and `epoch` the number of the last plan so far."""
        ...


class Table:
    """A CSV file that rows are appended to; each row is with the operating system when `add` returns. With `again` it is there
    already."""

    def __init__(self, path: Path, columns: Mapping[str, str], again: bool = False) -> None:
        self.columns = tuple(columns)
        self.path = path
        self._file = path.open("ab" if again else "xb", buffering=0)
        self._line = io.StringIO()
        self._writer = csv.writer(self._line, lineterminator="\n")
        if not again:
            self._put(self.columns)

    def add(self, row: Mapping[str, object]) -> None:
        """Append a row; columns that it does not name stay empty."""
        self._put([row.get(column, "") for column in self.columns])

    def add_values(self, values: list[object]) -> None:
        """Append a row given in the order of the columns."""
        if len(values) != len(self.columns):
            raise ValueError(f"{len(values)} values for {len(self.columns)} columns")
        self._put(values)

    def add_lines(self, text: str) -> None:
        """Append whole lines of CSV in the order of the columns."""
        self._write(text)

    def fileno(self) -> int:
        """The file's, to sync it."""
        return self._file.fileno()

    def close(self) -> None:
        """Close the file; what could not be written has been said by `add`."""
        with suppress(OSError):
            self._file.close()

    def _put(self, values: Any) -> None:
        # One write per row (of steps: per request): whatever interrupts us, the file ends with a whole line.
        self._writer.writerow(values)
        text = self._line.getvalue()
        self._line.seek(0)
        self._line.truncate()
        self._write(text)

    def _write(self, text: str) -> None:
        rest = text.encode()
        while rest:
            try:
                rest = rest[self._file.write(rest) :]
            except OSError as error:
                raise _refused(self.path, error) from error


class Lines:
    """A file of JSON lines that records are appended to. With `again` it is there already."""

    def __init__(self, path: Path, again: bool = False) -> None:
        self.path = path
        self._file: TextIO = path.open("a" if again else "x", encoding="utf-8")

    def add(self, record: Mapping[str, Any]) -> None:
        """Append a record."""
        with writing(self.path):
            self._file.write(json.dumps(plain(record), ensure_ascii=False) + "\n")
            self._file.flush()

    def fileno(self) -> int:
        """The file's, to sync it."""
        return self._file.fileno()

    def close(self) -> None:
        """Close the file; what could not be written has been said by `add`."""
        with suppress(OSError):
            self._file.close()
