"""An authority, and certificates of its making, in PEM."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

_PEM = serialization.Encoding.PEM
HOUR = timedelta(hours=1)


@dataclass(frozen=True)
class Pair:
    certificate: bytes
    key: bytes

    def write(self, folder: Path) -> tuple[Path, Path]:
        """Write tls.crt and tls.key, as a Secret has them."""
        folder.mkdir(parents=True, exist_ok=True)
        paths = folder / "tls.crt", folder / "tls.key"
        for path, data in zip(paths, (self.certificate, self.key), strict=True):
            path.write_bytes(data)
        return paths


class Authority:
    """Signs certificates for this machine's loopback names."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test authority")])
        constraints = x509.BasicConstraints(ca=True, path_length=None)
        builder = _builder(self._name, self._name, self._key, HOUR)
        builder = builder.add_extension(constraints, critical=True)
        self.pem = builder.sign(self._key, hashes.SHA256()).public_bytes(_PEM)

    def pair(
        self, *, names: tuple[str, ...] = ("localhost", "127.0.0.1"), ends_in: timedelta = HOUR
    ) -> Pair:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "server")])
        alternatives = x509.SubjectAlternativeName([_general_name(name) for name in names])
        builder = _builder(subject, self._name, key, ends_in)
        certificate = builder.add_extension(alternatives, critical=False)
        signed = certificate.sign(self._key, hashes.SHA256())
        return Pair(signed.public_bytes(_PEM), _private(key))


def with_password(pair: Pair) -> Pair:
    key = serialization.load_pem_private_key(pair.key, None)
    encryption = serialization.BestAvailableEncryption(b"secret")
    encoded = key.private_bytes(_PEM, serialization.PrivateFormat.PKCS8, encryption)
    return Pair(pair.certificate, encoded)


def serial_of(der: bytes) -> int:
    return x509.load_der_x509_certificate(der).serial_number


def serial(pair: Pair) -> int:
    return x509.load_pem_x509_certificate(pair.certificate).serial_number


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, ends_in: timedelta
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=2))
        .not_valid_after(now + ends_in)
    )


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _private(key: ec.EllipticCurvePrivateKey) -> bytes:
    form, none = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    return key.private_bytes(_PEM, form, none)
