"""Authorities and certificates for tests of TLS."""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import Sequence
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from d3node.tls import Tls

NOW = datetime.datetime.now(datetime.UTC)


class Authority:
    """A private authority that writes its files, and its hosts', into a folder."""

    def __init__(self, folder: Path, name: str = "authority") -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _name(name)
        made = _builder(self._name, self._name, self._key, 2).add_extension(x509.BasicConstraints(True, None), critical=True)
        self.ca = folder / "ca.pem"
        self.ca.write_bytes(made.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))

    def files(
        self, name: str, addresses: Sequence[str] = ("127.0.0.1",), days: int = 2, roles: Sequence[str] = ()
    ) -> tuple[Path, Path]:
        """A host's certificate (for its name and addresses, and of some roles; expired where `days` is negative) and key."""
        key = ec.generate_private_key(ec.SECP256R1())
        names: list[x509.GeneralName] = [x509.DNSName(name), *(x509.IPAddress(ipaddress.ip_address(a)) for a in addresses)]
        names += [x509.UniformResourceIdentifier(role) for role in roles]
        made = _builder(_name(name), self._name, key, days).add_extension(x509.SubjectAlternativeName(names), critical=False)
        certificate, where = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        certificate.write_bytes(made.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
        plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        where.write_bytes(key.private_bytes(serialization.Encoding.PEM, *plain))
        where.chmod(0o600)
        return certificate, where

    def tls(self, name: str, addresses: Sequence[str] = ("127.0.0.1",), days: int = 2, roles: Sequence[str] = ()) -> Tls:
        return Tls.load(self.ca, *self.files(name, addresses, days, roles))


def _name(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _builder(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, days: int) -> x509.CertificateBuilder:
    start, end = NOW - datetime.timedelta(days=9), NOW + datetime.timedelta(days=days)
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key.public_key())
    return builder.serial_number(x509.random_serial_number()).not_valid_before(start).not_valid_after(end)
