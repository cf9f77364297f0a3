"""Kinds of messages and their fields: the vocabulary of agents and orchestrator. How they are framed is in `d3node.wire`.

Control plane (orchestrator <-> agent, never on the shaped links). Replies carry the request's `id` field where one is given.

| kind        | direction | fields                                                              | payloads      |
|-------------|-----------|---------------------------------------------------------------------|---------------|
| configure   | o -> a    | id, peers {host: address}, mode, tensors, route                     |               |
| install     | o -> a    | id, plan {..}, steps_s {tier: [s per step]}, tiles_s [[s per tile] per stack] |     |
| retire      | o -> a    | epoch (dropped once its last request is done)                       |               |
| share       | o -> a    | cpu_share (multiplies the host's modelled speed from now on)        |               |
| submit      | o -> a    | request, epoch, input (seed of the image), deadline_s (device only) |               |
| whole       | o -> a    | id, model, input: run the whole model, off the record               |               |
| probe       | o -> a    | id, peer, size                                                      |               |
| stats       | o -> a    | id                                                                  |               |
| shutdown    | o -> a    | id                                                                  |               |
| ok          | a -> o    | id, and the answer's fields                                         | whole: answer |
| refused     | a -> o    | id, error (class name), text                                        |               |
| done        | a -> o    | request, epoch, submitted_at, done_at                               | the answer    |
| failed      | a -> o    | request, epoch, error (class name), text, submitted_at, done_at     |               |
| report      | a -> o    | request, epoch, host, records [..] (see below)                      |               |

Data plane (agent -> agent, on the shaped links; one connection per ordered pair of hosts, kept warm)

| kind      | fields                                  | payloads                                     |
|-----------|-----------------------------------------|----------------------------------------------|
| tensor    | request, epoch, vertex, device          | the tensor                                   |
| tile      | request, epoch, stack, tile, leader     | read regions, by ascending vertex            |
| tile_done | request, epoch, stack, tile             | the tile of the output map                   |
| answer    | request, epoch, vertex                  | an output of the model, to the device        |
| failure   | request, epoch, error, text             | (to the device: the request cannot be done)  |
| probe     | id, size, (reply: bool)                 | uint8 bytes out, empty back                  |

Records of a report (times are event-loop seconds of the reporting host)

| what     | fields                                                                       |
|----------|------------------------------------------------------------------------------|
| compute  | step or (stack, tile); vertices; queued_s; start; end; modelled_s; overrun_s |
| transfer | peer (sender), kind, vertex or (stack, tile), start (sent_at), end, bytes    |
"""

from __future__ import annotations

from typing import Final

VERSION: Final = 1
CONTROL_KINDS: Final = (
    "configure",
    "install",
    "retire",
    "share",
    "submit",
    "whole",
    "probe",
    "stats",
    "shutdown",
    "ok",
    "refused",
    "done",
    "failed",
    "report",
)
DATA_KINDS: Final = ("tensor", "tile", "tile_done", "answer", "failure", "probe")
