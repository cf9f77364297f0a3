"""The handshake: only peers with the run's secret and the same version get through, and no proof can be used twice."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from d3node import auth
from d3node.auth import Handshake
from d3node.errors import AuthenticationError, ChannelError, ProtocolError
from d3node.protocol import VERSION

SECRET = b"sixteen bytes or"


def shake(client: Handshake, server: Handshake, piece: int = 1 << 16) -> None:
    """Carry bytes to and fro, `piece` at a time, until nobody has any left."""
    towards_server, towards_client = client.start(), server.start()
    while towards_server or towards_client:
        data, towards_server = towards_server[:piece], towards_server[piece:]
        if data:
            towards_client += server.feed(data)
        data, towards_client = towards_client[:piece], towards_client[piece:]
        if data:
            towards_server += client.feed(data)


@pytest.mark.parametrize("piece", [1, 7, 1 << 16])
def test_both_ends_know_each_other_after_it(piece: int) -> None:
    client, server = Handshake("client", SECRET), Handshake("server", SECRET)
    shake(client, server, piece)
    assert client.done
    assert server.done


def test_bytes_behind_the_handshake_are_kept() -> None:
    client, server = Handshake("client", SECRET), Handshake("server", SECRET)
    proof = client.feed(server.feed(client.start()))
    server.feed(proof + b"first frame")
    assert server.done
    assert server.rest == b"first frame"


def test_a_client_without_the_secret_is_refused_in_words() -> None:
    client, server = Handshake("client", b"another secret.."), Handshake("server", SECRET)
    with pytest.raises(AuthenticationError, match="the server does not know"):
        client.feed(server.feed(client.start()))
    forged = auth.message(auth.CLIENT_PROOF, bytes(32))
    with pytest.raises(AuthenticationError, match="the client does not know"):
        server.feed(forged)
    with pytest.raises(AuthenticationError, match="refused by the peer: the client does not know this run's secret"):
        Handshake("client", SECRET).feed(server.last_words)


def test_a_servers_own_proof_sent_back_is_worth_nothing() -> None:
    """Reflection: an attacker answers the server's challenge with the proof that the server itself has sent."""
    server = Handshake("server", SECRET)
    challenge = server.feed(auth.message(auth.HELLO, bytes(32)))
    proof = challenge[auth.HEAD.size + auth.NONCE_BYTES :]
    with pytest.raises(AuthenticationError):
        server.feed(auth.message(auth.CLIENT_PROOF, proof))


def test_a_recorded_handshake_cannot_be_played_back() -> None:
    client, server = Handshake("client", SECRET), Handshake("server", SECRET)
    hello = client.start()
    proof = client.feed(server.feed(hello))
    replayed = Handshake("server", SECRET)
    replayed.feed(hello)
    with pytest.raises(AuthenticationError):
        replayed.feed(proof)


@pytest.mark.parametrize("role", ["client", "server"])
def test_another_version_is_refused_in_words(role: str) -> None:
    end = Handshake(role, SECRET)  # type: ignore[arg-type]
    with pytest.raises(ProtocolError, match=f"{VERSION + 1} and {VERSION}"):
        end.feed(auth.message(auth.HELLO, bytes(32), version=VERSION + 1))
    assert b"versions differ" in end.last_words


def test_an_empty_secret_is_no_secret() -> None:
    with pytest.raises(AuthenticationError, match="empty"):
        Handshake("server", b"")


@given(st.sampled_from(["client", "server"]), st.lists(st.binary(max_size=120), max_size=5))
def test_noise_never_gets_through(role: str, noise: list[bytes]) -> None:
    end = Handshake(role, SECRET)  # type: ignore[arg-type]
    try:
        for piece in noise:
            end.feed(piece)
    except ChannelError:
        pass
    assert not end.done


@given(st.integers(1, 5), st.binary(max_size=80))
def test_well_formed_messages_with_wrong_contents_never_get_through(kind: int, body: bytes) -> None:
    server = Handshake("server", SECRET)
    server.feed(auth.message(auth.HELLO, bytes(32)))
    with pytest.raises(ChannelError):
        server.feed(auth.message(kind, body) + bytes(600))
    assert not server.done
