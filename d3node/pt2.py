"""Exported programs (`.pt2`) are read as data: whatever in them would be run as code while loading is refused before.

`torch.export.load` unpickles what an archive holds beside plain tensors, loads compiled libraries from it, and evaluates the
expressions of symbolic shapes. What the program means is `d3node.reading`'s business.
"""

from __future__ import annotations

import json
import os
import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import PurePosixPath
from typing import Any, Final

from d3node.errors import ModelError

TENSORS_ONLY = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
"""Makes every `torch.load` take tensors and plain containers only, also where torch itself asks for more."""
PLAIN_NAMES = ("archive_format", "archive_version", "byteorder", "version")
WITHIN = {"weights": r"(weight_\d+|.*\.json)", "constants": r"(tensor_\d+|.*\.json)", "sample_inputs": r".*\.pt"}
"""Files of an archive's data/ folder that are tensors or JSON."""
OLD_NAMES = r"serialized_(exported_program\.json|state_dict\.(pt|json)|constants\.(pt|json)|example_inputs\.pt)"
"""The files of archives that torch 2.6 and earlier have written."""
ARITHMETIC: Final = re.compile(r"[\w\s+\-*/%(),<>=!&|~]*")
LONGEST_EXPRESSION = 1000


def load(path: str) -> Any:
    """The exported program. Raises ModelError for what might be code, and whatever torch raises for what it cannot read."""
    import torch

    _refuse_code(path)
    with _tensors_only():
        return torch.export.load(path)


def _refuse_code(path: str) -> None:
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            if not _is_data(name):
                raise ModelError(
                    f"model file {path!r} holds {name[:80]!r}, which may be code (a pickle or a library) and is never run:"
                    " export the model with tensors as its only constants, and without ahead-of-time compilation"
                )
            if name.endswith(".json") and archive.getinfo(name).file_size:
                _refuse_expressions(path, json.loads(archive.read(name)))


def _is_data(name: str) -> bool:
    parts = PurePosixPath(name).parts
    if name.endswith("/"):
        return True
    if len(parts) <= 2 and (parts[-1] in PLAIN_NAMES or re.fullmatch(OLD_NAMES, parts[-1])):
        return True
    if len(parts) == 3 and parts[1] in ("extra", ".data"):  # texts that torch hands back or ignores
        return True
    if len(parts) == 3 and parts[1] == "models":
        return parts[2].endswith(".json")
    return len(parts) == 4 and parts[1] == "data" and re.fullmatch(WITHIN.get(parts[2], r"(?!)"), parts[3]) is not None


def _refuse_expressions(path: str, value: Any) -> None:
    """Expressions of symbolic shapes are evaluated by sympy, as Python: only arithmetic may be in them."""
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, list):
            waiting.extend(item)
        elif isinstance(item, dict):
            for key, inner in item.items():
                if key == "expr_str" and not _is_arithmetic(inner):
                    raise ModelError(f"model file {path!r} has a shape that is no arithmetic: {str(inner)[:80]!r}")
                waiting.append(inner)


def _is_arithmetic(text: object) -> bool:
    if not isinstance(text, str) or len(text) > LONGEST_EXPRESSION or "__" in text:
        return False
    return ARITHMETIC.fullmatch(re.sub(r"\b\d+\.\d+\b|'\w+'", "0", text)) is not None


@contextmanager
def _tensors_only() -> Iterator[None]:
    before = os.environ.get(TENSORS_ONLY)
    os.environ[TENSORS_ONLY] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[TENSORS_ONLY]
        else:
            os.environ[TENSORS_ONLY] = before
