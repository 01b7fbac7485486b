"""A private certificate authority and one server certificate for loopback: the broker and the web server use
it.

The authority is made once and kept, because devices pin it; the server certificate is renewed before it
expires.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fleet.stack.errors import StackError
from fleet.stack.paths import RunDir, write_private

CA_VALID = timedelta(days=3650)
SERVER_VALID = timedelta(days=397)
RENEW_BEFORE = timedelta(days=30)
SERVER_NAMES = ("localhost",)
SERVER_ADDRESSES = ("127.0.0.1", "::1")


@dataclass(frozen=True)
class TlsFiles:
    """PEM files: what clients trust, and what servers present."""

    ca: Path
    certificate: Path
    key: Path


def ensure_tls(run: RunDir, *, now: datetime | None = None) -> TlsFiles:
    """Make or renew the certificates below `run`.

    Raises StackError `state` when an existing file cannot be read.
    """
    now = now or datetime.now(UTC)
    files = TlsFiles(ca=run.tls / "ca.pem", certificate=run.tls / "server.pem", key=run.tls / "server.key")
    ca_key_path = run.tls / "ca.key"
    try:
        if not (files.ca.exists() and ca_key_path.exists()):
            _make_ca(files.ca, ca_key_path, now=now)
            files.certificate.unlink(missing_ok=True)
        if not (files.key.exists() and _is_valid_for(files.certificate, now + RENEW_BEFORE)):
            _make_server(files, ca_key_path, now=now)
    except ValueError as error:
        raise StackError(
            "state", f"a certificate below {run.tls} is damaged: {error}; delete that folder"
        ) from error
    return files


def _is_valid_for(certificate: Path, moment: datetime) -> bool:
    if not certificate.exists():
        return False
    return x509.load_pem_x509_certificate(certificate.read_bytes()).not_valid_after_utc > moment


def _make_ca(ca: Path, ca_key: Path, *, now: datetime) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "TinyFleet private CA")])
    certificate = (
        _builder(name, name, key.public_key(), now=now, valid=CA_VALID)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    write_private(ca_key, _private_pem(key))
    write_private(ca, certificate.public_bytes(serialization.Encoding.PEM))


def _make_server(files: TlsFiles, ca_key_path: Path, *, now: datetime) -> None:
    ca = x509.load_pem_x509_certificate(files.ca.read_bytes())
    ca_key = serialization.load_pem_private_key(ca_key_path.read_bytes(), password=None)
    if not isinstance(ca_key, ec.EllipticCurvePrivateKey):
        raise ValueError("the authority's key is not an elliptic curve key")
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    names: list[x509.GeneralName] = [x509.DNSName(host) for host in SERVER_NAMES]
    names += [x509.IPAddress(ipaddress.ip_address(address)) for address in SERVER_ADDRESSES]
    certificate = (
        _builder(name, ca.subject, key.public_key(), now=now, valid=SERVER_VALID)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False
        )
        .sign(ca_key, hashes.SHA256())
    )
    write_private(files.key, _private_pem(key))
    write_private(files.certificate, certificate.public_bytes(serialization.Encoding.PEM))


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    public: ec.EllipticCurvePublicKey,
    *,
    now: datetime,
    valid: timedelta,
) -> x509.CertificateBuilder:
    # An hour back: a device whose clock runs a little behind must not refuse a fresh certificate.
    return x509.CertificateBuilder(
        subject_name=subject,
        issuer_name=issuer,
        public_key=public,
        serial_number=x509.random_serial_number(),
        not_valid_before=now - timedelta(hours=1),
        not_valid_after=now + valid,
    )


def _usage(*, certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not certificates,
        key_cert_sign=certificates,
        crl_sign=certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
