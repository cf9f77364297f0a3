"""A private certificate authority for the machines of one inventory, and a certificate for each of them.

Made once by `testbed hosts init` on the orchestrator's machine; the authority's key never leaves it. Existing files are never
overwritten; `renew` makes new certificates from the same authority and puts the old ones aside.
"""

from __future__ import annotations

import datetime
import ipaddress
import os
import secrets
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from d3node.tls import ORCHESTRATOR as ROLE
from testbed.errors import InputError, InventoryError

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

CA_DAYS, DAYS = 3650, 397
"""How long an authority and its certificates are valid."""
ORCHESTRATOR = "orchestrator"
_EARLY = datetime.timedelta(hours=24)
"""Certificates are valid from a day ago: clocks of small machines run late after a start without network."""


def init(folder: Path, hosts: Mapping[str, Sequence[str]], days: int = DAYS) -> list[Path]:
    """Make authority, certificates (of the orchestrator and of every host, for its names and addresses) and a secret in a new or
    empty folder; the files. Raises InputError where one is there already, or `cryptography` is not installed."""
    _need_cryptography()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if there := sorted(path.name for path in folder.iterdir()):
        raise InputError(
            f"{folder}: holds {', '.join(there[:5])} already, and nothing is overwritten; give a new folder, or --renew"
        )
    made = [write(folder / "secret", secrets.token_hex(32).encode() + b"\n")]
    certificate, key = _authority()
    made += _store(folder, "ca", certificate, key)
    for name, addresses in {ORCHESTRATOR: (), **hosts}.items():
        made += _issue(folder, name, addresses, certificate, key, days)
    return made


def renew(folder: Path, hosts: Mapping[str, Sequence[str]], days: int = DAYS) -> list[Path]:
    """New certificates of the authority in a folder, for the hosts given (all others keep theirs) and the orchestrator; the old
    ones stay beside them as `NAME.pem.SERIAL`. Raises InputError, InventoryError."""
    _need_cryptography()
    certificate, key = _load_authority(folder)
    made = []
    for name, addresses in {ORCHESTRATOR: (), **hosts}.items():
        old = folder / f"{name}.pem"
        if old.exists():
            serial = f"{_certificate(old).serial_number:x}"
            for path in (old, folder / f"{name}.key"):
                if path.exists():
                    path.rename(path.with_name(f"{path.name}.{serial}"))
        made += _issue(folder, name, addresses, certificate, key, days)
    return made


def names_of(path: Path) -> list[str]:
    """Names and addresses that a certificate is for. Raises InventoryError."""
    _need_cryptography()
    from cryptography import x509

    found = _certificate(path).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return [str(name.value) for name in found]


def days_left(path: Path) -> float:
    """Days until a certificate is no longer valid (negative after that). Raises InventoryError."""
    _need_cryptography()
    left: datetime.timedelta = _certificate(path).not_valid_after_utc - datetime.datetime.now(datetime.UTC)
    return left / datetime.timedelta(days=1)


def _authority() -> tuple[x509.Certificate, EllipticCurvePrivateKey]:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = _name(f"d3-testbed {secrets.token_hex(4)}")
    usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
    certificate = (
        _builder(name, name, key.public_key(), CA_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return certificate, key


def _issue(
    folder: Path,
    host: str,
    addresses: Iterable[str],
    ca: x509.Certificate,
    ca_key: EllipticCurvePrivateKey,
    days: int,
) -> list[Path]:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID

    key = ec.generate_private_key(ec.SECP256R1())
    orders = host == ORCHESTRATOR  # it dials, and nobody dials it
    names = [x509.DNSName(host), *(_alternative(address) for address in dict.fromkeys(addresses))]
    alternatives = x509.SubjectAlternativeName([*names, *([x509.UniformResourceIdentifier(ROLE)] if orders else [])])
    roles = x509.ExtendedKeyUsage([*([] if orders else [ExtendedKeyUsageOID.SERVER_AUTH]), ExtendedKeyUsageOID.CLIENT_AUTH])
    usage = x509.KeyUsage(True, False, False, False, False, False, False, False, False)
    authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key())
    certificate = (
        _builder(_name(host), ca.subject, key.public_key(), days)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(alternatives, critical=False)
        .add_extension(usage, critical=True)
        .add_extension(roles, critical=False)
        .add_extension(authority, critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    return _store(folder, host, certificate, key)


def _builder(subject: x509.Name, issuer: x509.Name, public: Any, days: int) -> x509.CertificateBuilder:
    from cryptography import x509

    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _EARLY)
        .not_valid_after(now + datetime.timedelta(days=days))
    )


def _name(common: str) -> x509.Name:
    from cryptography import x509

    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, common)])


def _alternative(address: str) -> x509.GeneralName:
    from cryptography import x509

    try:
        return x509.IPAddress(ipaddress.ip_address(address))
    except ValueError:
        return x509.DNSName(address)


def _store(folder: Path, name: str, certificate: x509.Certificate, key: EllipticCurvePrivateKey) -> list[Path]:
    from cryptography.hazmat.primitives import serialization as form

    hidden = key.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, form.NoEncryption())
    return [
        write(folder / f"{name}.pem", certificate.public_bytes(form.Encoding.PEM)),
        write(folder / f"{name}.key", hidden),
    ]


def write(path: Path, data: bytes) -> Path:
    """A new file that its owner alone can read; never one in place of another."""
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError as error:
        raise InputError(f"{path} exists already, and nothing is overwritten") from error
    with os.fdopen(handle, "wb") as file:
        file.write(data)
    return path


def _certificate(path: Path) -> x509.Certificate:
    from cryptography import x509

    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except OSError as error:
        raise InventoryError(f"{path}: {error.strerror}") from error
    except ValueError as error:
        raise InventoryError(f"{path}: not a certificate in PEM form") from error


def _load_authority(folder: Path) -> tuple[x509.Certificate, EllipticCurvePrivateKey]:
    from cryptography.hazmat.primitives import serialization as form
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

    certificate = _certificate(folder / "ca.pem")
    try:
        key = form.load_pem_private_key((folder / "ca.key").read_bytes(), None)
    except OSError as error:
        raise InventoryError(
            f"{folder / 'ca.key'}: {error.strerror}; certificates are renewed where the authority's key is"
        ) from error
    except (ValueError, TypeError) as error:
        raise InventoryError(f"{folder / 'ca.key'}: not an unencrypted private key in PEM form") from error
    if not isinstance(key, EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
        raise InventoryError(f"{folder}: ca.key is not the key of ca.pem")
    return certificate, key


def _need_cryptography() -> None:
    try:
        import cryptography  # noqa: F401
    except ImportError as error:
        raise InputError("certificates need the Python package cryptography: pip install 'd3-testbed[hosts]'") from error
