"""TLS between agents: certificates of the same authority only, for the host that is dialled, and nothing readable on the way."""

from __future__ import annotations

import asyncio
import contextlib
import os
import ssl
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from agent_rig import LIMITS, SECRET, chain, payload, three_way, timed
from certificates import Authority
from slow_reader import slows_its_sender_down

from d3node.agent import AgentConfig, serve
from d3node.auth import Handshake
from d3node.channel import Channel, Message
from d3node.errors import AuthenticationError, ChannelClosed, ChannelError
from d3node.tcp import TcpListener, TcpTransport
from d3node.tls import ORCHESTRATOR, Tls, TlsLayer, refuse_plain

PATIENCE_S = 60.0


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


def transport(tls: Tls | None, secret: bytes = SECRET) -> TcpTransport:
    return TcpTransport(secret, limits=LIMITS, tls=tls)


async def echo(channel: Channel) -> None:
    while True:
        await channel.send(await channel.receive())


@contextlib.asynccontextmanager
async def serving(tls: Tls | None) -> AsyncIterator[TcpListener]:
    listener = await transport(tls).listen("127.0.0.1:0", echo)
    try:
        yield listener
    finally:
        await listener.close()


def refused(server: Tls | None, client: Tls | None, expected: str, host: str = "127.0.0.1", secret: bytes = SECRET) -> None:
    async def main() -> None:
        async with serving(server) as listener:
            port = listener.address.rpartition(":")[2]
            with pytest.raises((AuthenticationError, ChannelClosed), match=expected):
                await transport(client, secret).connect(f"{host}:{port}", deadline_s=PATIENCE_S)

    asyncio.run(main())


def test_tensors_of_all_sizes_travel_encrypted_and_byte_counts_are_those_of_plain_connections(authority: Authority) -> None:
    sizes = [(), (0,), (1,), (16_384,), (65_536, 3), (262_143, 262_145), (3_000_000, 1, 70_000)]
    fields = {"request": 1, "epoch": 1, "vertex": 3, "device": "d1"}
    sent = [Message("tensor", fields, tuple(payload(os.urandom(n)) for n in group)) for group in sizes]

    async def main() -> None:
        async with serving(authority.tls("e1")) as listener:
            channel = await transport(authority.tls("d1")).connect(listener.address)
            assert channel.names == {"e1", "127.0.0.1"}

            async def send() -> None:
                for message in sent:
                    await channel.send(message)

            sending = asyncio.create_task(send())
            for message in sent:
                back = await channel.receive()
                assert back.fields == message.fields
                assert [bytes(p.data or b"") for p in back.payloads] == [bytes(p.data or b"") for p in message.payloads]
            await sending
            assert channel.bytes_sent == channel.bytes_received
            await channel.close()

    asyncio.run(main())


def test_nothing_that_is_sent_can_be_read_on_the_way(authority: Authority) -> None:
    seen = bytearray()

    async def main() -> None:
        async with serving(authority.tls("e1")) as listener:
            port = int(listener.address.rpartition(":")[2])

            async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                while data := await reader.read(1 << 16):
                    seen.extend(data)
                    writer.write(data)
                writer.close()

            async def middle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                there, back = await asyncio.open_connection("127.0.0.1", port)
                await asyncio.gather(pass_on(reader, back), pass_on(there, writer), return_exceptions=True)

            server = await asyncio.start_server(middle, "127.0.0.1", 0)
            where = server.sockets[0].getsockname()[1]
            channel = await transport(authority.tls("d1")).connect(f"127.0.0.1:{where}")
            await channel.send(Message("stats", {"id": "a word that stands out"}, (payload(b"a tensor that stands out"),)))
            assert (await channel.receive()).fields["id"] == "a word that stands out"
            await channel.close()
            server.close()

    asyncio.run(main())
    assert len(seen) > 1000
    for word in (b"stands out", b"D3NF", b"D3NA", SECRET):
        assert word not in seen


def test_strangers_are_refused_in_words(authority: Authority, tmp_path: Path) -> None:
    other = Authority(tmp_path / "other")
    good = authority.tls("e1")
    refused(good, other.tls("d1"), "certificate is not accepted|unknown ca")
    refused(other.tls("e1"), authority.tls("d1"), "the peer's certificate is not accepted")
    refused(good, authority.tls("late", days=-1), "expired")
    refused(authority.tls("late", days=-1), good, "the peer's certificate is not accepted: certificate has expired")


def test_a_certificate_for_another_address_is_refused(authority: Authority) -> None:
    refused(authority.tls("e9", ("10.9.9.9",)), authority.tls("d1"), "IP address mismatch")


def test_the_secret_is_asked_for_inside_tls_too(authority: Authority) -> None:
    refused(authority.tls("e1"), authority.tls("d1"), "does not know this run's secret", secret=b"another secret")


def test_plain_and_tls_do_not_mix_and_both_sides_say_so(authority: Authority) -> None:
    tls = authority.tls("e1")
    refused(tls, None, "the peer speaks TLS|closed the connection")
    refused(None, tls, "does not speak TLS")


def test_a_client_without_a_certificate_is_refused(authority: Authority) -> None:
    """A client of its own making: TLS 1.3 lets it finish its half before the server has seen that nothing was shown."""

    async def main() -> None:
        async with serving(authority.tls("e1")) as listener:
            context = ssl.create_default_context(cafile=str(authority.ca))
            host, port = listener.address.split(":")
            reader, writer = await asyncio.open_connection(host, int(port), ssl=context)
            writer.write(Handshake("client", SECRET).start())
            answer = b""
            with contextlib.suppress(ssl.SSLError, ConnectionError):
                answer = await asyncio.wait_for(reader.read(), PATIENCE_S)
            assert answer == b""
            writer.transport.abort()

    asyncio.run(main())


def test_older_versions_of_tls_are_refused(authority: Authority) -> None:
    async def main() -> None:
        async with serving(authority.tls("e1")) as listener:
            context = ssl.create_default_context(cafile=str(authority.ca))
            context.load_cert_chain(*authority.files("old"))
            context.maximum_version = ssl.TLSVersion.TLSv1_2
            host, port = listener.address.split(":")
            with pytest.raises((ssl.SSLError, ConnectionError)):
                await asyncio.open_connection(host, int(port), ssl=context)

    asyncio.run(main())


def test_a_proof_passed_on_between_two_tls_connections_is_worth_nothing(authority: Authority) -> None:
    """Somebody with a certificate but without the secret stands in the middle and passes the secret's handshake on."""
    tls = authority.tls("mallory")
    ends = [(TlsLayer(tls, "client", "127.0.0.1"), TlsLayer(tls, "server", None)) for _ in range(2)]
    for client, server in ends:
        while not (client.shake() and server.shake()):
            server.feed(memoryview(client.take()))
            server.shake()
            client.feed(memoryview(server.take()))
    (near, near_middle), (far_middle, far) = ends
    assert near.binding == near_middle.binding != far_middle.binding == far.binding
    client, server = Handshake("client", SECRET), Handshake("server", SECRET)
    client.bind(near.binding)
    server.bind(far.binding)
    with pytest.raises(AuthenticationError, match="does not know"):
        client.feed(server.feed(client.start()))


def test_a_peer_may_only_call_itself_what_its_certificate_says(authority: Authority) -> None:
    async def main() -> None:
        ready = asyncio.get_running_loop().create_future()
        serving = asyncio.create_task(
            serve(AgentConfig("e1", "edge"), {"chain": chain()}, transport(authority.tls("e1")), "127.0.0.1:0",
                  transport(None), "127.0.0.1:0", ready=lambda data, control: ready.set_result(data))
        )  # fmt: skip
        address = await ready
        honest = await transport(authority.tls("d1")).connect(address)
        await honest.send(Message("hello", {"host": "d1"}))
        liar = await transport(authority.tls("d1")).connect(address)
        await liar.send(Message("hello", {"host": "c1"}))
        last = await asyncio.wait_for(liar.receive(), PATIENCE_S)
        assert last.kind == "refused"
        assert "with the certificate of 127.0.0.1, d1" in last.fields["text"]
        await honest.send(Message("probe", {"id": 1, "size": 0, "reply": True, "start": 0.0, "end": 0.0, "bytes": 0, "gap": 0.0}))
        for channel in (honest, liar):
            channel.abort()
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)

    asyncio.run(main())


def test_orders_are_taken_from_an_orchestrators_certificate_alone(authority: Authority, caplog: pytest.LogCaptureFixture) -> None:
    """An agent that was taken over has the secret and a certificate of its own, and orders nobody about."""

    async def main() -> None:
        orders = TcpTransport(SECRET, limits=LIMITS, tls=authority.tls("e1"), admits=ORCHESTRATOR)
        listener = await orders.listen("127.0.0.1:0", echo)
        told = await transport(authority.tls("o", roles=[ORCHESTRATOR])).connect(listener.address)
        await told.send(Message("ping", {"id": 1}))
        assert (await asyncio.wait_for(told.receive(), PATIENCE_S)).kind == "ping"
        for name, roles in (("d1", []), ("orchestrator", []), (ORCHESTRATOR[9:], []), ("c1", ["spiffe://d3-testbed/agent"])):
            with pytest.raises(AuthenticationError, match=f"127.0.0.1.* does not say {ORCHESTRATOR}"):
                await transport(authority.tls(name.replace("/", "."), roles=roles)).connect(listener.address)
        await told.send(Message("ping", {"id": 2}))
        assert (await asyncio.wait_for(told.receive(), PATIENCE_S)).fields["id"] == 2
        told.abort()
        await listener.close()

    asyncio.run(main())
    warned = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len([text for text in warned if "does not say" in text]) == 4


def test_an_orchestrators_certificate_is_no_hosts_on_the_data_plane(authority: Authority) -> None:
    async def main() -> None:
        ready = asyncio.get_running_loop().create_future()
        serving = asyncio.create_task(
            serve(AgentConfig("e1", "edge"), {"chain": chain()}, transport(authority.tls("e1")), "127.0.0.1:0",
                  transport(None), "127.0.0.1:0", ready=lambda data, control: ready.set_result(data))
        )  # fmt: skip
        channel = await transport(authority.tls("orchestrator", roles=[ORCHESTRATOR])).connect(await ready)
        await channel.send(Message("hello", {"host": "orchestrator"}))
        last = await asyncio.wait_for(channel.receive(), PATIENCE_S)
        assert last.kind == "refused"
        assert "certificate of an orchestrator, which is no host" in last.fields["text"]
        channel.abort()
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)

    asyncio.run(main())


def test_a_request_is_answered_over_tls(authority: Authority) -> None:
    graph = chain()

    async def main() -> None:
        tasks, data, control = [], {}, {}
        for name, tier in (("d1", "device"), ("e1", "edge"), ("c1", "cloud")):
            ready = asyncio.get_running_loop().create_future()
            config = AgentConfig(name, tier)  # type: ignore[arg-type]
            plane = TcpTransport(SECRET, limits=LIMITS, sizes=True, tls=authority.tls(name))
            tasks.append(asyncio.create_task(serve(config, {"chain": graph}, plane, "127.0.0.1:0", plane, "127.0.0.1:0",
                                                   ready=lambda d, c, r=ready: r.set_result((d, c)))))  # fmt: skip
            data[name], control[name] = await ready
        orchestrator = TcpTransport(SECRET, limits=LIMITS, sizes=True, tls=authority.tls("orchestrator"))
        channels = {name: await orchestrator.connect(address) for name, address in control.items()}
        for channel in channels.values():
            for kind, fields in (("configure", {"peers": data, "mode": "modelled", "tensors": "sizes"}),
                                 ("install", timed(graph, three_way(graph), 0.0))):  # fmt: skip
                await channel.send(Message(kind, {"id": 1, **fields}))
                assert (await channel.receive()).kind == "ok"
        await channels["d1"].send(Message("submit", {"request": 1, "epoch": 1, "input": 0, "deadline_s": PATIENCE_S}))
        message = await channels["d1"].receive()
        while message.kind == "report":
            message = await channels["d1"].receive()
        assert message.kind == "done", message
        for channel in channels.values():
            channel.abort()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(main())


@pytest.mark.parametrize(
    ("break_it", "text"),
    [
        (lambda ca, cert, key: ca.unlink(), "authority's certificate cannot be read"),
        (lambda ca, cert, key: ca.write_text("nothing"), "not an authority's certificate"),
        (lambda ca, cert, key: cert.write_text("nothing"), "not a certificate and its own"),
        (lambda ca, cert, key: key.write_bytes(key.with_name("other.key").read_bytes()), "not a certificate and its own"),
        (lambda ca, cert, key: key.unlink(), "key cannot be read"),
        (lambda ca, cert, key: key.chmod(0o644), "chmod 600"),
    ],
)
def test_bad_files_are_named(break_it: object, text: str, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    certificate, key = authority.files("e1")
    authority.files("other")
    break_it(authority.ca, certificate, key)  # type: ignore[operator]
    with pytest.raises(AuthenticationError, match=text):
        Tls.load(authority.ca, certificate, key)


def test_an_encrypted_key_is_refused_and_no_password_is_asked_for(authority: Authority, tmp_path: Path) -> None:
    from cryptography.hazmat.primitives import serialization

    certificate, key = authority.files("e1")
    loaded = serialization.load_pem_private_key(key.read_bytes(), None)
    form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    locked = tmp_path / "locked.key"
    locked.write_bytes(loaded.private_bytes(*form, serialization.BestAvailableEncryption(b"password")))
    locked.chmod(0o600)
    with pytest.raises(AuthenticationError, match="unencrypted key"):
        Tls.load(authority.ca, certificate, locked)


@pytest.mark.parametrize("address", ["127.0.0.1:1", "127.8.9.1:1", "[::1]:1", "localhost:1", "unix:/x"])
def test_plain_text_is_for_this_machine(address: str) -> None:
    refuse_plain(address, None, allowed=False)


@pytest.mark.parametrize("address", ["0.0.0.0:1", "192.168.1.5:1", "[::]:1", "lab-machine:1", "localhost.example.org:1"])
def test_elsewhere_plain_text_needs_leave(address: str, authority: Authority) -> None:
    with pytest.raises(AuthenticationError, match="without TLS"):
        refuse_plain(address, None, allowed=False)
    refuse_plain(address, None, allowed=True)
    refuse_plain(address, authority.tls("e1"), allowed=False)


def test_a_stranger_who_stops_in_the_middle_of_tls_is_cut_off(authority: Authority) -> None:
    from dataclasses import replace

    async def main() -> None:
        limits = replace(LIMITS, handshake_s=1.0)
        listener = await TcpTransport(SECRET, limits=limits, tls=authority.tls("e1")).listen("127.0.0.1:0", echo)
        host, port = listener.address.split(":")
        for noise in (b"", b"\x16\x03\x01\x02\x00", b"GET / HTTP/1.1\r\n\r\n", os.urandom(300)):
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(noise)
            with contextlib.suppress(ConnectionError):
                await asyncio.wait_for(reader.read(), PATIENCE_S)
            writer.close()
        channel = await transport(authority.tls("d1")).connect(listener.address)
        await channel.send(Message("stats", {"id": 1}))
        assert (await channel.receive()).fields["id"] == 1
        await channel.close()
        await listener.close()

    asyncio.run(main())


def test_what_is_changed_on_the_way_ends_the_connection(authority: Authority) -> None:
    async def main() -> None:
        errors: list[Exception] = []

        async def watch(channel: Channel) -> None:
            try:
                await echo(channel)
            except ChannelError as error:
                errors.append(error)
                raise

        listener = await transport(authority.tls("e1")).listen("127.0.0.1:0", watch)
        channel = await transport(authority.tls("d1")).connect(listener.address)
        await channel.send(Message("stats", {"id": 1}))
        await channel.receive()
        assert channel._tls is not None
        assert channel._transport is not None
        sent = bytearray(channel._tls.encrypt(b"something"))
        sent[-1] ^= 1
        channel._transport.write(bytes(sent))
        with pytest.raises(ChannelError):
            await asyncio.wait_for(channel.receive(), PATIENCE_S)
        assert "bad record mac" in str(errors[0])
        channel.abort()
        await listener.close()

    asyncio.run(main())


def test_unix_sockets_never_use_tls(authority: Authority, tmp_path: Path) -> None:
    async def main() -> None:
        plane = transport(authority.tls("e1"))
        listener = await plane.listen(f"unix:{tmp_path}/s", echo)
        channel = await transport(None).connect(listener.address)
        await channel.send(Message("stats", {"id": 1}))
        assert (await channel.receive()).fields["id"] == 1
        assert channel.names is None
        await channel.close()
        await listener.close()

    asyncio.run(main())


def test_a_reader_that_does_not_take_messages_slows_the_sender_down(authority: Authority) -> None:
    server = TcpTransport(SECRET, limits=replace(LIMITS, buffered_bytes=1 << 20), tls=authority.tls("e1"))
    message = Message("stats", {"id": 1}, (payload(bytes(1_000_000)),))
    slows_its_sender_down(server, transport(authority.tls("d1")), message)
