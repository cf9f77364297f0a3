"""Fingerprints of what an agent has loaded, by which two machines tell that they mean the same model.

A structure's covers the layer graph but not its name (a file may be called differently on every machine); that of weights covers
all tensors of the captured model, data sets included.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

from d3node.graph import LayerGraph


def structure(graph: LayerGraph) -> str:
    """SHA-256 of a layer graph, in hex."""
    return hashlib.sha256(replace(graph, name="").to_json().encode()).hexdigest()


def weights(constants: dict[str, Any]) -> str:
    """SHA-256 of named tensors: names, types, shapes, bytes. Of tensors on any device; they are copied to the CPU one by one."""
    import torch

    digest = hashlib.sha256()
    for name, tensor in sorted(constants.items()):
        dense = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {dense.dtype} {tuple(dense.shape)}\n".encode())
        if dense.numel():
            digest.update(memoryview(dense.reshape(-1).view(torch.uint8).numpy()))
    return digest.hexdigest()


def of_model(model: Any) -> dict[str, str | None]:
    """Both fingerprints of a loaded model; a bare layer graph has no weights."""
    if isinstance(model, LayerGraph):
        return {"structure": structure(model), "weights": None}
    return {"structure": structure(model.graph), "weights": weights(dict(model.program.constants))}
