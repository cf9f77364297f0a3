"""Kinds of messages and their fields: the vocabulary of agents and orchestrator. How they are framed is in `d3node.wire`.

Control plane (orchestrator <-> agent, never on the shaped links). Replies carry the request's `id` field where one is given;
done, failed and report go to the channel that sent the last `configure`.

| kind        | direction | fields                                                              | payloads      |
|-------------|-----------|---------------------------------------------------------------------|---------------|
| configure   | o -> a    | id, peers {host: address}, mode, tensors, route, input_encoding,    |               |
|             |           | recovery, fresh, in_flight, windows {host: requests}                |               |
|             |           | run (what tells the orchestrator's run from others; `about` says it) |               |
| install     | o -> a    | id, plan {..}, steps_s {tier: [s per step]}, tiles_s [[s per tile] per stack], vertices_s, route | |
| retire      | o -> a    | epoch (dropped once its last request is done)                       |               |
| share       | o -> a    | cpu_share (multiplies the host's modelled speed from now on)        |               |
| submit      | o -> a    | request, epoch, input (seed of the image), deadline_s (device only) |               |
| whole       | o -> a    | id, model, input: run the whole model, off the record               |               |
| probe       | o -> a    | id, peer, size                                                      |               |
| stats       | o -> a    | id                                                                  |               |
| ping        | o -> a    | id, over (requests that have ended: nothing of them is kept)        |               |
| tell        | o -> a    | id, requests: say again what was said of them, and which are under way here | |
| held        | o -> a    | id, request, epoch: which of its tensors are still here             |               |
| resume      | o -> a    | id, request, was, epoch, provide [vertices], input, deadline_s      |               |
| hold        | o -> a    | id, model, vertices (whose weights it holds from now on; null: all), keep |         |
| upload      | o -> a    | id, peer, model, vertices: send their weights to the peer           |               |
| stop        | o -> a    | id, peer: end uploads after the piece under way; those to the peer at once |        |
| about       | o -> a    | id                                                                  |               |
| clock       | o -> a    | id                                                                  |               |
| shape       | o -> a    | id, address, rate_bps (0: an outage), delay_s, jitter_s, loss: of what is sent there |          |
| carried     | o -> a    | id                                                                  |               |
| spoil       | o -> a    | id, peer, how (corrupt or truncate): what becomes of the next frame to the peer; only where |  |
|             |           | the agent was started for it (fault injection)                      |               |
| shutdown    | o -> a    | id                                                                  |               |
| ok          | a -> o    | id, and the answer's fields (see below)                             | whole: answer |
| refused     | a -> o    | id, error (class name), text                                        |               |
| done        | a -> o    | request, epoch, submitted_at, done_at, exit, absent, fallback       | the answer    |
| failed      | a -> o    | request, epoch, error (class name), text, submitted_at, done_at     |               |
| report      | a -> o    | request, epoch, host, records [..], bytes_sent, bytes_received      |               |
| stranded    | a -> o    | request, epoch, host, lost, text: it cannot go on, `lost` is gone   |               |

`install` goes to every host of the plan, tile hosts included. In `steps_s` the entry of a stack step is not used (its tiles
have their own times, at the speed of the host that runs them). `vertices_s` may be left out: for stacks whose tiles are
fetched, {host: [[fixed s, s for the whole map] per vertex]}, null for the others. Every request ends with exactly one `done` or
`failed`, from its device; every host that took part sends exactly one `report`, when it is through with the request (the
device's comes before `done`). With exits, only hosts up to the tier of the exit take part; `exit` is its number in the plan,
`absent` names devices that were not waited for, `fallback` says that the device answered by itself (all three only with exits).
`submit` goes to every device of a plan with `placed` vertices, each of which takes its own view of the input. A request that a
host refuses to start (`submit` without a plan, say) ends with `failed` like any other.

Recovery, only where `configure` says `recovery`: a lost peer does not fail a request. Every leading host that has a part in it
says `stranded` once for each epoch, keeps what it has, and waits for `resume`. Then the request goes on under another epoch,
whose plan says what is `done`; `provide` are the tensors that this host holds and must provide, `was` is the epoch until now,
which ends there with its report. The device gets `resume` first (`deadline_s` is what is left of its time), then every leading
host that provides something; other hosts of the old epoch may get it, with nothing to provide. With other devices' views, coded
tensors, exits or two ways nothing is ever `held`: such a request begins again from its input, under a plan without `done` (other
devices get `submit` again, after `resume`). A hand whose leader is lost is dropped. While no orchestrator is connected, events
wait for the next `configure`; and what was said of a request is kept until `ping` says that it is over, for an orchestrator that
takes the place of one that has died (`tell`): then it has `again` = true. `fresh` in
`configure`: every request, epoch and kept tensor is dropped first, without a word (this host was
taken for dead). Requests have numbers of their own within a run. `route` in `install` holds for this plan, instead of that of
`configure`.

A host that has a part in `in_flight` requests (`d3node.bounds` where it is left out) takes no more: the request fails on its
device with Overloaded. `windows` {host: n}: so many requests of this host may be open on that one at a time; further ones wait
here (`d3node.windows`).

Answers in `ok`: whole -> label (the image's class in the model's data set, null without one); probe -> rtt_s, one_way_s
(sent_at to received_at at the peer), bytes, end (received_at) and gap_s (end minus received_at of the message before it on its
connection; shorter than its way means that it queued behind that one); stats -> see `d3node.stats`; install -> epoch; configure
-> name, tier, version; held -> vertices; tell -> running [[request, epoch] ..], of
the device's own; about -> see `d3node.facts`; clock -> received_at (when it came, by the agent's clock;
when the answer left is in its frame); carried -> addresses {IPv4: [bytes, packets, drops]}, as counted where traffic to them is
shaped; hold with `keep` -> vertices (held; a host that was told before what to hold keeps to that); upload, when the peer keeps
what it was sent -> vertices (kept), sizes [[wire bytes, messages] ..], start and end (of the way, in the receiver's time), and
reply_bytes.

Data plane (agent -> agent, on the shaped links; one connection per ordered pair of hosts, kept warm; another one for weights)

| kind      | fields                                  | payloads                                     |
|-----------|-----------------------------------------|----------------------------------------------|
| hello     | host (first message of a connection)    |                                              |
| tensor    | request, epoch, vertex, device, codec,  | the tensor (codec: map, where it is coded;   |
|           | absent, opens                           | absent: devices that were not waited for)    |
| decided   | request, epoch, exit, verdict           | (stop or pass: to who waits for an exit)     |
| tile      | request, epoch, stack, tile, leader     | read regions, by ascending vertex            |
| tile_done | request, epoch, stack, tile             | the tile of the output map                   |
| halo      | request, epoch, stack, tile, leader, to | a part of a tile for the next stacks' tiles  |
| offer     | request, epoch, stack, leader           | (there are tiles to be fetched)              |
| steal     | request, epoch, stack                   | (an idle host asks for a tile)               |
| over      | request, epoch, stack, leader           | (no more tiles to be fetched)                |
| left      | request, epoch, stack                   | (understood: no more `steal` will come)      |
| answer    | request, epoch, vertex, exit, absent    | an output of the model, to the device        |
| failure   | request, epoch, error, text             | (to the device: the request cannot be done)  |
| cancel    | request, epoch, moved                   | (from the device: the request has failed, or |
|           |                                         | moved to another epoch: keep its tensors)    |
| lost      | host, text                              | (to the device: this host is gone)           |
| probe     | id, size, reply, start, end, bytes, gap | uint8 bytes out, empty back                  |
| weights   | id, model, vertex, offset, size, last   | uint8 piece of a chunk (`d3node.weights`)    |
| kept      | id, vertices, sizes, start, end         | (to the sender: these are in use)            |
| room      | request, epoch                          | (on the connection on which a tensor came    |
|           |                                         | that `opens` it: its part here is over)      |
| refused   | id, error, text                         | (last words before a connection is closed)   |

Tiles that are fetched (`Stack.stealing`, `Stack.reuse`): a `tile` is the answer to `steal`, and has two more fields: given
[[vertex, top, bottom, left, right], ..], whose payloads follow the read regions, and keep [..], whose payloads follow the tile in
`tile_done`.
A `halo` for another host than the receiver is passed on (`Stack.handover` "relay").

Records of a report (times are event-loop seconds of the reporting host)

| what     | fields                                                                                  |
|----------|-----------------------------------------------------------------------------------------|
| compute  | step or (stack, tile); vertices; queued_s; start; end; modelled_s; overrun_s; for a tile |
|          | that was fetched also positions (how many of each vertex's map were computed)           |
| transfer | peer (sender), kind, vertex or (stack, tile), start (sent_at), end, bytes               |
"""

from __future__ import annotations

from typing import Any, Final

from d3node.errors import ProtocolError

VERSION: Final = 3
CONTROL_KINDS: Final = (
    "configure",
    "install",
    "retire",
    "share",
    "submit",
    "whole",
    "probe",
    "stats",
    "ping",
    "tell",
    "held",
    "resume",
    "hold",
    "upload",
    "stop",
    "about",
    "clock",
    "shape",
    "carried",
    "spoil",
    "shutdown",
    "ok",
    "refused",
    "done",
    "failed",
    "report",
    "stranded",
)
DATA_KINDS: Final = (
    "hello",
    "tensor",
    "tile",
    "tile_done",
    "halo",
    "offer",
    "steal",
    "over",
    "left",
    "answer",
    "decided",
    "failure",
    "cancel",
    "lost",
    "probe",
    "weights",
    "kept",
    "room",
    "refused",
)

_ID: Final = (int, str)
_NUMBER: Final = (int, float)
_REQUEST: Final[dict[str, tuple[type, ...]]] = {"request": _ID, "epoch": (int,)}
FIELDS: Final[dict[str, dict[str, tuple[type, ...]]]] = {
    "configure": {"id": _ID, "peers": (dict,), "mode": (str,), "tensors": (str,)},
    "install": {"id": _ID, "plan": (dict,), "steps_s": (dict,), "tiles_s": (list, tuple)},
    "retire": {"epoch": (int,)},
    "share": {"cpu_share": _NUMBER},
    "submit": {**_REQUEST, "input": (int,), "deadline_s": _NUMBER},
    "whole": {"id": _ID, "model": (str,), "input": (int,)},
    "probe": {"id": _ID, "size": (int,)},
    "stats": {"id": _ID},
    "ping": {"id": _ID},
    "tell": {"id": _ID, "requests": (list, tuple)},
    "held": {"id": _ID, **_REQUEST},
    "resume": {"id": _ID, **_REQUEST, "was": (int,), "provide": (list, tuple), "input": (int,), "deadline_s": _NUMBER},
    "hold": {"id": _ID, "model": (str,)},
    "upload": {"id": _ID, "peer": (str,), "model": (str,), "vertices": (list, tuple)},
    "stop": {"id": _ID},
    "about": {"id": _ID},
    "clock": {"id": _ID},
    "shape": {"id": _ID, "address": (str,), "rate_bps": _NUMBER, "delay_s": _NUMBER, "jitter_s": _NUMBER, "loss": _NUMBER},
    "carried": {"id": _ID},
    "spoil": {"id": _ID, "peer": (str,), "how": (str,)},
    "shutdown": {"id": _ID},
    "ok": {"id": _ID},
    "refused": {"id": _ID, "error": (str,), "text": (str,)},
    "done": {**_REQUEST, "submitted_at": _NUMBER, "done_at": _NUMBER},
    "failed": {**_REQUEST, "error": (str,), "text": (str,), "submitted_at": _NUMBER, "done_at": _NUMBER},
    "report": {**_REQUEST, "host": (str,), "records": (list, tuple), "bytes_sent": (int,), "bytes_received": (int,)},
    "stranded": {**_REQUEST, "host": (str,), "lost": (str,), "text": (str,)},
    "hello": {"host": (str,)},
    "tensor": {**_REQUEST, "vertex": (int,), "device": (str,)},
    "tile": {**_REQUEST, "stack": (int,), "tile": (int,), "leader": (str,)},
    "tile_done": {**_REQUEST, "stack": (int,), "tile": (int,)},
    "halo": {**_REQUEST, "stack": (int,), "tile": (int,), "leader": (str,), "to": (str,)},
    "offer": {**_REQUEST, "stack": (int,), "leader": (str,)},
    "steal": {**_REQUEST, "stack": (int,)},
    "over": {**_REQUEST, "stack": (int,), "leader": (str,)},
    "left": {**_REQUEST, "stack": (int,)},
    "answer": {**_REQUEST, "vertex": (int,)},
    "decided": {**_REQUEST, "exit": (int,), "verdict": (str,)},
    "failure": {**_REQUEST, "error": (str,), "text": (str,)},
    "cancel": _REQUEST,
    "lost": {"host": (str,), "text": (str,)},
    "room": _REQUEST,
    "weights": {"id": (int,), "model": (str,), "vertex": (int,), "offset": (int,), "size": (int,)},
    "kept": {"id": (int,), "vertices": (list, tuple), "sizes": (list, tuple), "start": _NUMBER, "end": _NUMBER},
}
"""Fields that a kind must carry and the types they may have; more fields may come along."""


def check_fields(kind: str, fields: dict[str, Any]) -> None:
    """Raise ProtocolError unless `kind` is known and its fields are there with the right types."""
    wanted = FIELDS.get(kind)
    if wanted is None:
        raise ProtocolError(f"unknown kind of message {kind[:40]!r}")
    for name, types in wanted.items():
        value = fields.get(name)
        if not isinstance(value, types) or isinstance(value, bool):
            raise ProtocolError(f"a {kind!r} message needs a field {name!r} of type {types[0].__name__}")
