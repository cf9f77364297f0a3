"""TLS on a connection: version 1.3 only, and both ends show a certificate of the authority that the operator gave them.

It hides and protects what travels; who may take part in a run is still decided by the handshake with the run's secret
(`d3node.auth`), which goes on inside and signs this connection's TLS handshake, so that nobody can stand in the middle of both.
Sans I/O: `d3node.stream` moves the bytes. Making certificates is the operator's business (`testbed hosts init`).
"""

from __future__ import annotations

import ipaddress
import os
import ssl
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from d3node.errors import AuthenticationError

BINDING: Final = "tls-unique"
"""The client's Finished message: a keyed hash of the whole handshake, certificates included. Python's ssl offers no exporter
(RFC 9266); what speaks against this value in older versions is resumption and renegotiation, and neither exists here."""
ORCHESTRATOR: Final = "spiffe://d3-testbed/orchestrator"
"""Name of type URI, in the form of SPIFFE, in the certificate of whoever may order agents about."""
OTHERS: Final = stat.S_IROTH | stat.S_IWOTH


@dataclass(frozen=True)
class Tls:
    """A host's certificate and key, and the authority whose certificates it trusts, ready for both roles."""

    client: ssl.SSLContext
    server: ssl.SSLContext

    @classmethod
    def load(cls, ca: Path, certificate: Path, key: Path) -> Tls:
        """Read PEM files. Raises AuthenticationError that names the file, what is wrong with it and what to do."""
        for path, what in ((ca, "authority's certificate"), (certificate, "certificate"), (key, "key")):
            _readable(path, what)
        if os.name == "posix" and key.stat().st_mode & OTHERS:
            raise AuthenticationError(f"{key}: everybody on this machine can read the key; chmod 600 it")
        contexts = []
        for protocol in (ssl.PROTOCOL_TLS_CLIENT, ssl.PROTOCOL_TLS_SERVER):
            context = ssl.SSLContext(protocol)
            context.minimum_version = ssl.TLSVersion.TLSv1_3
            context.verify_mode = ssl.CERT_REQUIRED
            try:
                context.load_verify_locations(ca)
            except ssl.SSLError as error:
                raise AuthenticationError(f"{ca}: not an authority's certificate in PEM form ({_reason(error)})") from None
            try:
                context.load_cert_chain(certificate, key, password="")
            except ssl.SSLError as error:
                raise AuthenticationError(
                    f"{certificate} and {key}: not a certificate and its own unencrypted key in PEM form ({_reason(error)})"
                ) from None
            contexts.append(context)
        contexts[1].num_tickets = 0  # no session is resumed: every connection proves everything
        return cls(*contexts)


class TlsLayer:
    """One end of a TLS connection between two pieces of memory: what came in is fed, what must go out is taken.

    `host`: the name or address that the server's certificate must be for; None in the server. `established`: the handshake is
    through; then `names` and `roles` (names of type URI) are those of the peer's certificate, and `binding` is known to the two
    ends of this connection only.
    """

    def __init__(self, tls: Tls, role: Literal["client", "server"], host: str | None) -> None:
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        context = tls.server if role == "server" else tls.client
        try:
            self._object = context.wrap_bio(self._incoming, self._outgoing, server_side=role == "server", server_hostname=host)
        except ValueError as error:
            raise AuthenticationError(f"{host!r} cannot be the name in a certificate: {error}") from None
        self.established = False
        self.names: frozenset[str] = frozenset()
        self.roles: frozenset[str] = frozenset()
        self.binding = b""

    def feed(self, data: memoryview) -> None:
        """Take bytes that came in."""
        self._incoming.write(data)

    def take(self) -> bytes:
        """Bytes that have to go out now."""
        return self._outgoing.read()

    def shake(self) -> bool:
        """Go on with the handshake; True once it is through. Raises AuthenticationError for a peer that is not to be trusted."""
        if not self._carried(self._object.do_handshake):
            return False
        certificate: dict[str, Any] = self._object.getpeercert() or {}
        subject = [value for part in certificate.get("subject", ()) for key, value in part if key == "commonName"]
        others = certificate.get("subjectAltName", ())
        self.names = frozenset([*subject, *(value for kind, value in others if kind != "URI")])
        self.roles = frozenset(value for kind, value in others if kind == "URI")
        self.binding = self._object.get_channel_binding(BINDING) or b""
        if not self.binding:
            raise AuthenticationError("this Python's ssl cannot tell connections apart; use one with OpenSSL 1.1.1 or newer")
        self.established = True
        return True

    def read_into(self, room: memoryview) -> int | None:
        """Bytes put into `room`; 0 at the peer's goodbye, None when more must come in. Raises AuthenticationError."""
        count = 0

        def read() -> None:
            nonlocal count
            count = int(self._object.read(len(room), room))  # with a buffer it returns how many bytes it has put there

        return count if self._carried(read) else None

    def encrypt(self, data: bytes | memoryview) -> bytes:
        """What goes out for these bytes."""
        if len(data):
            self._object.write(data)
        return self._outgoing.read()

    def goodbye(self) -> bytes:
        """What goes out last, so that the peer knows that nothing was cut off."""
        if self.established:
            self._carried(self._object.unwrap)
        return self._outgoing.read()

    def _carried(self, step: Callable[[], object]) -> bool:
        """Whether a step was carried out; False where it needs more bytes from the peer."""
        try:
            step()
        except ssl.SSLWantReadError:
            return False
        except ssl.SSLCertVerificationError as error:
            raise AuthenticationError(f"the peer's certificate is not accepted: {error.verify_message}") from None
        except ssl.SSLError as error:
            raise AuthenticationError(_words(error)) from None
        return True


def refuse_plain(address: str, tls: Tls | None, allowed: bool) -> None:
    """Raise AuthenticationError for an address to listen on that other machines can reach, without TLS and without leave."""
    if tls is None and not allowed and not _local(address):
        raise AuthenticationError(
            f"{address} can be reached from other machines, and without TLS they could read and change everything:"
            " give a certificate (`testbed hosts init` makes them), listen on 127.0.0.1, or say that plain text is meant"
        )


def _local(address: str) -> bool:
    if address.startswith("unix:"):
        return True
    host = address.rpartition(":")[0].removeprefix("[").removesuffix("]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _readable(path: Path, what: str) -> None:
    try:
        with path.open("rb"):
            return
    except OSError as error:
        raise AuthenticationError(f"{path}: the {what} cannot be read: {error.strerror}") from None


def _reason(error: ssl.SSLError) -> str:
    return (error.reason or str(error)).lower().replace("_", " ")


def _words(error: ssl.SSLError) -> str:
    """What a failure of TLS means to a person."""
    reason = _reason(error)
    if "wrong version number" in reason or "http request" in reason:
        return "the peer does not speak TLS: give both sides certificates, or neither"
    if "certificate required" in reason or "did not return a certificate" in reason:
        return "a certificate is required, and none was shown"
    if "alert" in reason:
        return f"the peer ended TLS: {reason}"
    return f"TLS failed: {reason}"
