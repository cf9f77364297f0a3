"""Weights that come over the network: what a host holds of its models, chunks on their way to a peer, chunks that arrive.

A chunk is one safetensors file with the tensors of one vertex; it travels in pieces, on a connection of its own, so that it
shares the links with tensors of requests as any two TCP streams do. What is sent to whom, and when, is the orchestrator's
decision; the format of the file is the safetensors library's, and `chunk_bytes` says its size where only sizes travel.
Source of the idea: IONN (Jeong et al., SoCC 2018), which uploads a model in partitions while queries run.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from d3node.channel import Channel, Message, Payload
from d3node.compute import ComputeQueue
from d3node.errors import ComputeError, ModelError, NodeError, PeerLost, PlanError, ProtocolError
from d3node.graph import LayerGraph, Parameter
from d3node.install import Epoch
from d3node.links import Link, Outbox
from d3node.numerics import RunnableModel

if TYPE_CHECKING:
    from torch import Tensor

    from d3node.model import Model

log = logging.getLogger("d3node.weights")

PIECE_BYTES = 1 << 20
"""Most of a chunk that one message carries: an upload can stop after it, and all that was sent by then is accounted for."""

SAFETENSORS = {
    "uint8": "U8",
    "int8": "I8",
    "int16": "I16",
    "float16": "F16",
    "bfloat16": "BF16",
    "int32": "I32",
    "float32": "F32",
    "float64": "F64",
    "int64": "I64",
    "bool": "BOOL",
}
"""The format's names of types."""
_ORDER = ("BOOL", "U8", "I8", "I16", "F16", "BF16", "I32", "F32", "F64", "I64")
"""The library writes tensors by type, last of these first, then by name."""


def parameters_of(graph: LayerGraph, vertices: Iterable[int]) -> tuple[Parameter, ...]:
    """The tensors of some vertices, each once, in the order of the vertices."""
    return tuple({p.name: p for v in vertices for p in graph[v].parameters}.values())


def chunk_bytes(parameters: Collection[Parameter]) -> int:
    """Size of a safetensors file with these tensors: 8 bytes of length, a JSON header padded to 8, the tensors."""
    header: dict[str, Any] = {}
    offset = 0
    for p in sorted(parameters, key=lambda p: (-_ORDER.index(SAFETENSORS[p.dtype]), p.name)):
        header[p.name] = {"dtype": SAFETENSORS[p.dtype], "shape": p.shape, "data_offsets": [offset, offset + p.nbytes]}
        offset += p.nbytes
    text = len(json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode())
    return 8 + -(-text // 8) * 8 + offset


def make_chunk(constants: Mapping[str, Tensor], parameters: Iterable[Parameter]) -> bytes:
    """The safetensors file of some tensors of a model. Raises ComputeError for one that is not here."""
    from safetensors.torch import save

    return save({p.name: constants[p.name].contiguous() for p in parameters})


def read_chunk(data: bytes, parameters: Collection[Parameter]) -> dict[str, Tensor]:
    """The tensors of a chunk, in memory as kernels like it. Raises ProtocolError unless they are exactly the expected ones."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    from d3node.instructions import settled

    try:
        found = load(data)
    except (SafetensorError, ValueError, RuntimeError) as error:
        raise ProtocolError(f"a chunk of weights is not a safetensors file: {error}") from error
    shapes = {name: (str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape)) for name, tensor in found.items()}
    if shapes != {p.name: (p.dtype, p.shape) for p in parameters}:
        raise ProtocolError(f"a chunk of weights holds {', '.join(sorted(shapes)) or 'nothing'}, or other shapes than expected")
    return {name: settled(tensor) for name, tensor in found.items()}


class HeldConstants(dict[str, Any]):
    """Weights by name; one that has not arrived is asked for in vain, and the error says so."""

    def __missing__(self, name: str) -> Any:
        raise ComputeError(f"the weights {name!r} are not on this host (yet)")


@dataclass(eq=False)
class _Upload:
    """An upload under way from this host (the `Sender` of its pieces): `left` vertices are still to be packed."""

    number: int
    identity: int | str
    outbox: Outbox
    peer: str
    model: str
    left: list[int]
    go_on: Callable[[_Upload], None]
    ended: bool = False
    stopping: bool = False
    vertex: int = -1
    parameters: tuple[Parameter, ...] = ()
    chunk: memoryview | None = None
    size: int = 0
    offset: int = 0

    def sent(self, wire_bytes: int) -> None:
        """A piece is handed to the network: the next one may follow."""
        if not self.ended:
            self.go_on(self)


@dataclass(eq=False)
class _Arrival:
    """An upload that comes in: the chunk in the making, and the account of what arrived."""

    start: float
    vertex: int = -1
    got: int = 0
    chunk: bytearray = field(default_factory=bytearray)
    sizes: Counter[int] = field(default_factory=Counter)
    kept: list[int] = field(default_factory=list)


class Weights:
    """What one agent holds of its models. `models` is the agent's own table: an entry is replaced while parts of it are away."""

    def __init__(
        self,
        name: str,
        models: dict[str, RunnableModel | LayerGraph],
        compute: ComputeQueue,
        dial: Callable[[str, Callable[[str, str], None]], Link],
        post: Callable[[str, Message], None],
    ) -> None:
        self._name = name
        self._models = models
        self._whole = dict(models)
        self._compute = compute
        self._dial = dial
        self._post = post
        self._held: dict[str, set[str]] = {}
        self._links: dict[str, Link] = {}
        self._uploads: dict[int, _Upload] = {}
        self._inbound: dict[Channel, str] = {}
        self._arrivals: dict[tuple[Channel, int], _Arrival] = {}
        self._bytes_sent = 0  # on connections that are no more
        self._count = 0

    @property
    def bytes_sent(self) -> int:
        """Bytes of frames on the connections for weights."""
        return self._bytes_sent + sum(link.bytes_sent for link in self._links.values())

    def close(self) -> None:
        """Stop sending."""
        for upload in self._uploads.values():
            upload.ended = True
        for link in self._links.values():
            link.close()

    def clear(self) -> None:
        """Begin anew: nothing is being sent or received. What is held stays."""
        for peer in {*self._links, *self._inbound.values()}:
            self.lost(peer, f"{self._name} begins anew")

    # -- what the orchestrator asks for --------------------------------------------------------------------------------------

    def control(self, outbox: Outbox, kind: str, fields: dict[str, Any]) -> None:
        """`hold`, `upload` or `stop`. Raises ModelError, PlanError."""
        if kind == "hold":
            model = fields["model"]
            if not (keep := bool(fields.get("keep", False))) or model not in self._held:
                self.hold(model, fields.get("vertices"))
            outbox.post(Message("ok", {"id": fields["id"], **({"vertices": self._vertices(model)} if keep else {})}))
        elif kind == "upload":
            self._upload(outbox, fields)
        else:
            if fields.get("peer") is not None:
                self.lost(str(fields["peer"]), "the orchestrator says so")
            for upload in self._uploads.values():
                upload.stopping = True
            outbox.post(Message("ok", {"id": fields["id"]}))

    def hold(self, model: str, vertices: Iterable[int] | None) -> None:
        """From now on have the weights of these vertices only (None: of all that the agent was started with)."""
        whole = self._whole.get(model)
        if whole is None:
            raise ModelError(f"{self._name} has not loaded model {model!r}; it has: {', '.join(self._whole) or 'none'}")
        if vertices is None:
            self._held.pop(model, None)
            self._models[model] = whole
            return
        graph = _graph(whole)
        names = {p.name for p in parameters_of(graph, (v for v in vertices if 0 <= v < len(graph)))}
        self._held[model] = names
        if not isinstance(whole, LayerGraph):
            self._models[model] = _with_constants(whole, {name: _constants(whole)[name] for name in sorted(names)})

    def _vertices(self, model: str) -> list[int]:
        """The vertices whose weights are here."""
        held = self._held.get(model)
        return [v.index for v in _graph(self._whole[model]) if held is None or all(p.name in held for p in v.parameters)]

    def check(self, epoch: Epoch) -> None:
        """Raise PlanError when a plan makes this host compute a vertex whose weights it does not hold."""
        held = self._held.get(epoch.plan.model)
        if held is None:
            return
        vertices = {v for step in epoch.steps if not step.tiles for v in step.vertices}
        vertices |= {v for stack, _ in epoch.tiles for v in epoch.plan.stacks[stack].vertices}
        vertices |= {v for step in epoch.steps if any(w.host == self._name for w in step.tiles) for v in step.vertices}
        missing = [v for v in sorted(vertices) if any(p.name not in held for p in epoch.graph[v].parameters)]
        if missing:
            names = ", ".join(repr(epoch.graph[v].name) for v in missing[:3])
            more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
            raise PlanError(f"{self._name} does not hold the weights of {names}{more} of {epoch.plan.model!r} (yet)")

    # -- sending -------------------------------------------------------------------------------------------------------------

    def _upload(self, outbox: Outbox, fields: dict[str, Any]) -> None:
        peer, model = str(fields["peer"]), str(fields["model"])
        whole = self._models.get(model)
        if whole is None:
            raise ModelError(f"{self._name} has not loaded model {model!r}")
        graph = _graph(whole)
        vertices = [int(v) for v in fields["vertices"]]
        if any(not 0 <= v < len(graph) for v in vertices):
            raise PlanError(f"{model!r} has the vertices 0 to {len(graph) - 1}")
        if peer not in self._links:
            self._links[peer] = self._dial(peer, self.lost)
        self._count += 1
        packed = [v for v in vertices if graph[v].parameters]
        upload = _Upload(self._count, fields["id"], outbox, peer, model, packed, self._go_on)
        self._uploads[upload.number] = upload
        self._go_on(upload)

    def _go_on(self, upload: _Upload) -> None:
        """Send the next piece; an upload that is stopped, or has nothing left, ends with an empty one."""
        if upload.stopping or (upload.offset == upload.size and not upload.left):
            upload.ended = True
            upload.vertex, upload.size = -1, 0
            self._send(upload, Payload("uint8", (0,), 0, memoryview(b"")), last=True)
        elif upload.offset < upload.size:
            self._piece(upload)
        else:
            upload.vertex = upload.left.pop(0)
            whole = self._models[upload.model]
            parameters = parameters_of(_graph(whole), (upload.vertex,))
            upload.offset, upload.size = 0, chunk_bytes(parameters)
            if isinstance(whole, LayerGraph):
                self._piece(upload)
                return

            def packed(chunk: Any, error: BaseException | None) -> None:
                if error is not None:
                    self._refuse(upload, error)
                elif not upload.ended:
                    upload.chunk, upload.size = memoryview(chunk), len(chunk)
                    self._piece(upload)

            self._compute.offload(lambda: make_chunk(_constants(whole), parameters), packed)

    def _piece(self, upload: _Upload) -> None:
        length = min(PIECE_BYTES, upload.size - upload.offset)
        data = None if upload.chunk is None else upload.chunk[upload.offset : upload.offset + length]
        start, upload.offset = upload.offset, upload.offset + length
        if upload.offset == upload.size:
            upload.chunk = None
        self._send(upload, Payload("uint8", (length,), length, data), start)

    def _send(self, upload: _Upload, payload: Payload, offset: int = 0, last: bool = False) -> None:
        what = {"id": upload.number, "model": upload.model, "vertex": upload.vertex, "offset": offset, "size": upload.size}
        self._links[upload.peer].post(Message("weights", {**what, "last": last}, (payload,)), None if last else upload)

    def _refuse(self, upload: _Upload, error: BaseException) -> None:
        upload.ended = True
        if self._uploads.pop(upload.number, None) is not None:
            name = type(error).__name__ if isinstance(error, NodeError) else ComputeError.__name__
            upload.outbox.post(Message("refused", {"id": upload.identity, "error": name, "text": str(error)}))

    def lost(self, peer: str, reason: str) -> None:
        """A peer is gone: uploads to it are over, and so are the connections for weights from and to it."""
        for upload in [upload for upload in self._uploads.values() if upload.peer == peer]:
            self._refuse(upload, PeerLost(f"{peer} is gone ({reason})"))
        if (link := self._links.pop(peer, None)) is not None:
            self._bytes_sent += link.bytes_sent
            link.close()
        for channel in [channel for channel, name in self._inbound.items() if name == peer]:
            channel.abort()

    def ended(self, channel: Channel) -> bool:
        """The connection of a peer has ended; whether it was one for weights. Half a chunk that came on it is of no use."""
        for key in [key for key in self._arrivals if key[0] is channel]:
            del self._arrivals[key]
        return self._inbound.pop(channel, None) is not None

    # -- what peers send -----------------------------------------------------------------------------------------------------

    def data(self, channel: Channel, peer: str, message: Message) -> None:
        """A piece of a chunk, or a peer's word that it keeps what it was sent. Raises ProtocolError."""
        if message.kind == "kept":
            self._kept(message)
        else:
            self._inbound[channel] = peer
            self._arrived(channel, peer, message)

    def _arrived(self, channel: Channel, peer: str, message: Message) -> None:
        fields = message.fields
        number, model, vertex = fields["id"], fields["model"], fields["vertex"]
        whole = self._whole.get(model)
        if whole is None or len(message.payloads) != 1 or message.payloads[0].dtype != "uint8":
            raise ProtocolError(f"{self._name} takes no weights of model {model!r} in this form")
        transfer = message.transfer
        arrival = self._arrivals.get((channel, number))
        if arrival is None:
            arrival = self._arrivals[channel, number] = _Arrival(transfer.sent_at if transfer else 0.0)
        if transfer:
            arrival.sizes[transfer.wire_bytes] += 1
        if fields["last"]:
            # behind what is being unpacked: the peer hears of the end when the last chunk is in use
            self._compute.offload(lambda: None, lambda _result, _error: self._reply(channel, peer, message))
            return
        graph, payload = _graph(whole), message.payloads[0]
        if not 0 <= vertex < len(graph):
            raise ProtocolError(f"{model!r} has no vertex {vertex!r}")
        if arrival.got == 0:
            arrival.vertex = vertex
        size = chunk_bytes(parameters_of(graph, (vertex,)))
        if vertex != arrival.vertex or fields["offset"] != arrival.got or arrival.got + payload.nbytes > size:
            raise ProtocolError(f"a chunk of the weights of vertex {vertex} comes in another order, or is not of {size} bytes")
        arrival.got += payload.nbytes
        if payload.data is not None and not isinstance(whole, LayerGraph):
            arrival.chunk += payload.data
        if arrival.got == size:
            chunk, arrival.chunk, arrival.got = bytes(arrival.chunk), bytearray(), 0
            self._unpack(arrival, whole, model, vertex, chunk)

    def _unpack(self, arrival: _Arrival, whole: RunnableModel | LayerGraph, model: str, vertex: int, chunk: bytes) -> None:
        """Take a whole chunk into use."""
        parameters = parameters_of(_graph(whole), (vertex,))
        arrival.kept.append(vertex)
        names = {p.name for p in parameters}
        if isinstance(whole, LayerGraph):
            self._held.get(model, set()).update(names)
            return
        if not chunk:
            raise ProtocolError("a chunk of weights came without its data: one host runs with tensors, another with sizes only")

        def unpacked(tensors: Any, error: BaseException | None) -> None:
            if error is not None:
                log.warning("%s: weights of vertex %d of %s: %s", self._name, vertex, model, error)
                arrival.kept.remove(vertex)
            elif model in self._held:
                _constants(self._models[model]).update(tensors)
                self._held[model].update(names)

        self._compute.offload(lambda: read_chunk(chunk, parameters), unpacked)

    def _reply(self, channel: Channel, peer: str, message: Message) -> None:
        number = message.fields["id"]
        arrival = self._arrivals.pop((channel, number), None)
        if arrival is not None:
            end = message.transfer.received_at if message.transfer else arrival.start
            sizes = [[size, count] for size, count in sorted(arrival.sizes.items())]
            what = {"id": number, "vertices": arrival.kept, "sizes": sizes, "start": arrival.start, "end": end}
            self._post(peer, Message("kept", what))

    def _kept(self, message: Message) -> None:
        fields = message.fields
        upload = self._uploads.pop(fields["id"], None)
        if upload is not None:
            what = {key: fields[key] for key in ("vertices", "sizes", "start", "end")}
            reply = message.transfer.wire_bytes if message.transfer else 0
            upload.outbox.post(Message("ok", {**what, "id": upload.identity, "reply_bytes": reply}))


def _graph(model: RunnableModel | LayerGraph) -> LayerGraph:
    return model if isinstance(model, LayerGraph) else model.graph


def _program(model: RunnableModel | LayerGraph) -> Any:
    program = getattr(model, "program", None)
    if program is None:
        raise ModelError(f"the weights of {_graph(model).name!r} cannot be handed out: it is no captured model")
    return program


def _constants(model: RunnableModel | LayerGraph) -> dict[str, Any]:
    found: dict[str, Any] = _program(model).constants
    return found


def _with_constants(whole: RunnableModel, constants: Mapping[str, Any]) -> Model:
    """The same model with these weights only; more may be added to its constants later."""
    from d3node.instructions import Program
    from d3node.model import Model

    program = _program(whole)
    normalisation = whole.normalisation if isinstance(whole, Model) else None
    held = Program(program.graph, program.codes, HeldConstants(constants))
    return Model(held) if normalisation is None else Model(held, normalisation)
