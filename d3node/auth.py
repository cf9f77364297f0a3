"""The handshake at the start of a connection: versions are compared, and both ends prove that they know the run's secret.

Sans I/O: `Handshake.feed` takes bytes and returns bytes; `d3node.tcp` moves them and keeps the deadline. Messages, all integers
big-endian: magic "D3NA" (4), protocol version (2), type (1), zero (1), body length (2), body.

| type      | sender | body                                                     |
|-----------|--------|----------------------------------------------------------|
| 1 hello   | client | nonce C (32)                                             |
| 2 proof   | server | nonce S (32), HMAC-SHA256(secret, "server", V, C, S, B) (32) |
| 3 proof   | client | HMAC-SHA256(secret, "client", V, C, S, B) (32)           |
| 4 welcome | server | (empty)                                                  |
| 5 refused | either | why, in words (UTF-8, up to 512)                         |

The role is part of what is signed and both nonces are fresh, so neither a recorded nor a reflected proof is worth anything. B is
empty on plain connections, and inside TLS a value that only the two ends of that TLS connection share (`d3node.tls`): proofs that
somebody in the middle passes on are worth nothing either. The secret keeps strangers and earlier runs out; hiding and protecting
what travels afterwards is TLS's business.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import struct
from typing import Final, Literal

from d3node.errors import AuthenticationError, ChannelError, ProtocolError
from d3node.protocol import VERSION

MAGIC: Final = b"D3NA"
HEAD: Final = struct.Struct(">4sHBBH")
NONCE_BYTES: Final = 32
PROOF_BYTES: Final = 32
TEXT_BYTES: Final = 512
TLS_RECORDS: Final = (b"\x15\x03", b"\x16\x03")
"""How an alert and a handshake of TLS begin."""
HELLO, SERVER_PROOF, CLIENT_PROOF, WELCOME, REFUSED = 1, 2, 3, 4, 5
_BODY: Final = {HELLO: NONCE_BYTES, SERVER_PROOF: NONCE_BYTES + PROOF_BYTES, CLIENT_PROOF: PROOF_BYTES, WELCOME: 0}

Role = Literal["client", "server"]


def message(kind: int, body: bytes = b"", version: int = VERSION) -> bytes:
    """One handshake message."""
    return HEAD.pack(MAGIC, version, kind, 0, len(body)) + body


def refusal(text: str) -> bytes:
    """A refusal in words."""
    return message(REFUSED, text.encode()[:TEXT_BYTES])


class Handshake:
    """One end of a handshake. `start()` gives the first bytes to send; `feed(data)` those to send next; `done` says it is over.

    `feed` raises AuthenticationError or ProtocolError; `last_words` then holds the refusal that the peer should still get.
    Bytes behind the last handshake message stay in `rest`.
    """

    def __init__(self, role: Role, secret: bytes, nonce: bytes | None = None) -> None:
        if not secret:
            raise AuthenticationError("the run's secret is empty")
        self.role = role
        self.done = False
        self.rest = b""
        self.last_words = b""
        self._secret = secret
        self._nonce = secrets.token_bytes(NONCE_BYTES) if nonce is None else nonce
        self._expected = HELLO if role == "server" else SERVER_PROOF
        self._nonces = b""
        self._binding = b""

    def bind(self, binding: bytes) -> None:
        """Sign the connection that carries the handshake, too; both ends know the value. To be called before anything else."""
        self._binding = binding

    def start(self) -> bytes:
        """The client opens; the server waits."""
        return message(HELLO, self._nonce) if self.role == "client" else b""

    def feed(self, data: bytes) -> bytes:
        """Take received bytes; return what has to be sent now."""
        self.rest += data
        reply = b""
        while not self.done and len(self.rest) >= HEAD.size:
            magic, version, kind, zero, length = HEAD.unpack_from(self.rest)
            if magic != MAGIC:
                if self.rest.startswith(TLS_RECORDS):
                    raise self._refuse(AuthenticationError("the peer speaks TLS: give both sides certificates, or neither"))
                raise self._refuse(ProtocolError("this is a port of d3node; what came is not its handshake"))
            if version != VERSION:
                raise self._refuse(
                    ProtocolError(f"versions differ: client and server speak {version} and {VERSION}; install the same d3node")
                )
            if kind == REFUSED and length <= TEXT_BYTES:
                if len(self.rest) < HEAD.size + length:
                    break
                text = self.rest[HEAD.size : HEAD.size + length].decode(errors="replace")
                raise AuthenticationError(f"refused by the peer: {text}")
            if kind != self._expected or zero != 0 or length != _BODY[kind]:
                raise self._refuse(ProtocolError(f"message of type {kind} out of turn in the handshake"))
            if len(self.rest) < HEAD.size + length:
                break
            body = self.rest[HEAD.size : HEAD.size + length]
            self.rest = self.rest[HEAD.size + length :]
            reply += self._step(kind, body)
        return reply

    def _step(self, kind: int, body: bytes) -> bytes:
        if kind == HELLO:
            self._nonces = body + self._nonce
            self._expected = CLIENT_PROOF
            return message(SERVER_PROOF, self._nonce + self._proof("server"))
        if kind == SERVER_PROOF:
            self._nonces = self._nonce + body[:NONCE_BYTES]
            self._verify("server", body[NONCE_BYTES:])
            self._expected = WELCOME
            return message(CLIENT_PROOF, self._proof("client"))
        if kind == CLIENT_PROOF:
            self._verify("client", body)
            self.done = True
            return message(WELCOME)
        self.done = True
        return b""

    def _proof(self, role: Role) -> bytes:
        signed = b"d3node " + role.encode() + struct.pack(">H", VERSION) + self._nonces + self._binding
        return hmac.new(self._secret, signed, hashlib.sha256).digest()

    def _verify(self, role: Role, proof: bytes) -> None:
        if not hmac.compare_digest(proof, self._proof(role)):
            raise self._refuse(AuthenticationError(f"the {role} does not know this run's secret"))

    def _refuse(self, error: ChannelError) -> ChannelError:
        self.last_words = refusal(str(error))
        return error
