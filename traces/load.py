"""A trace by name: a generated one, a file, or a shipped file; the format is told, or recognised from the content.

    load("lte-like")                                     shipped with the package
    load("wifi.txt", "scenarios/")                       a file, relative to a folder
    load("wifi.txt?format=pairs:pensieve")               a file in a named format, with an option of that format
    load("verizon.up?format=mahimahi:bin=50ms")
    load("generate:lte?seed=3&duration=60&mean=8Mbit")   made up, repeatable

Errors are `TraceFormatError`, with file and line. Formats are entry points of group "testbed.traces".
"""

from __future__ import annotations

import difflib
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path

from traces import generate
from traces.errors import TraceFormatError
from traces.format import Format, Source
from traces.trace import Trace

GROUP = "testbed.traces"
DATA = Path(__file__).parent / "data"
_SNIFFED_LINES = 50
_LARGEST_BYTES = 256 * 1024 * 1024


@cache
def formats() -> dict[str, Format]:
    """Registered formats by name. Raises TypeError for an entry point that is not a `Format`."""
    found: dict[str, Format] = {}
    for entry in entry_points(group=GROUP):
        reader = entry.load()
        if not isinstance(reader, Format):
            raise TypeError(f"entry point {entry.name!r} of group {GROUP!r} must be a traces.format.Format, got {reader!r}")
        found[entry.name] = reader
    return found


def shipped() -> dict[str, Path]:
    """Shipped trace files by name (the file's name without its suffix)."""
    return {path.stem: path for path in sorted(DATA.iterdir()) if path.suffix in (".csv", ".txt", ".up", ".down")}


def load(name_or_path: str | Path, directory: str | Path = ".", format: str | None = None) -> Trace:
    """The trace of a shipped name, a file (relative to `directory`), or a "generate:" specification.

    A file on disk wins over a shipped one of the same name. `format` ("mahimahi", "pairs:solis", ...) can also be part of
    the name, behind "?format=". Raises TraceFormatError.
    """
    spec = str(name_or_path)
    if spec.startswith(generate.PREFIX):
        return generate.from_spec(spec)
    path = _find(spec, Path(directory))
    if path is None and "?" in spec:
        spec, _, query = spec.partition("?")
        options = generate.parse_query(str(name_or_path), query, ("format",))
        format = options.get("format", format)
        path = _find(spec, Path(directory))
    if path is None:
        known = [*shipped(), generate.PREFIX + "PRESET"]
        near = difflib.get_close_matches(spec, known, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise TraceFormatError(
            spec, None, f"no such trace: neither a file in {Path(directory)} nor a shipped trace ({', '.join(known)}).{hint}"
        )
    return parse(_read_text(path, spec), spec, format)


def parse(text: str, name: str, format: str | None = None) -> Trace:
    """The trace in a file's text; `name` stands in errors. Raises TraceFormatError."""
    source = Source(name, text)
    if format is None:
        return _recognised(source)(source)
    format_name, _, rest = format.partition(":")
    if format_name not in formats():
        near = difflib.get_close_matches(format_name, formats(), n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise source.error(None, f"unknown format {format_name!r}{hint} (known: {', '.join(sorted(formats()))})")
    items = (item.partition("=") for item in filter(None, rest.split(",")))
    return formats()[format_name](source, {key: value for key, _, value in items})


def _find(spec: str, directory: Path) -> Path | None:
    for path in (directory / spec, shipped().get(spec)):
        if path is not None and path.is_file():
            return path
    return None


def _read_text(path: Path, name: str) -> str:
    try:
        if path.stat().st_size > _LARGEST_BYTES:
            raise TraceFormatError(name, None, f"larger than {_LARGEST_BYTES // 2**20} MiB; that is no trace of a link")
        # newline="" keeps carriage returns, which readers must be able to complain about
        with path.open(encoding="utf-8-sig", newline="") as file:
            return file.read()
    except UnicodeDecodeError as error:
        raise TraceFormatError(name, None, f"not a text file (byte {error.start})") from error
    except OSError as error:
        raise TraceFormatError(name, None, f"cannot be read: {error.strerror}") from error


def _recognised(source: Source) -> Format:
    if not source.text.strip():
        raise source.error(None, "the file is empty")
    lines = source.text[: _SNIFFED_LINES * 400].split("\n")[:_SNIFFED_LINES]
    found = [reader for reader in formats().values() if reader.recognises(lines)]
    if len(found) == 1:
        return found[0]
    names = ", ".join(sorted(reader.name for reader in found or formats().values()))
    problem = "the format is not clear from the content" if found else f"no known format begins with {lines[0][:60]!r}"
    raise source.error(None, f'{problem}; name one of {names} by adding "?format=NAME" to the trace\'s name')
