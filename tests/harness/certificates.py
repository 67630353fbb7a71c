"""Certificates of an authority of the tests' own, made by the openssl program."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Certificate:
    """A certificate and its key, in PEM."""

    certificate: Path
    key: Path


class Authority:
    """Who signs certificates, in a directory."""

    def __init__(self, directory: Path, name: str = "authority") -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        self.certificate = directory / f"{name}.crt"
        self._key = directory / f"{name}.key"
        _openssl(
            *("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"),
            *("-subj", f"/CN={name}", "-keyout", self._key, "-out", self.certificate),
        )

    def sign(self, name: str, *addresses: str, algorithm: str = "ec") -> Certificate:
        """Return a new certificate for a name; a server's are the addresses ("DNS:localhost", "IP:127.0.0.1")."""
        made = Certificate(self._directory / f"{name}.cert", self._directory / f"{name}.key")
        request = self._directory / f"{name}.csr"
        kind = ("-pkeyopt", "ec_paramgen_curve:P-256") if algorithm == "ec" else ("-pkeyopt", "rsa_keygen_bits:2048")
        _openssl(
            *("req", "-newkey", algorithm, *kind, "-nodes", "-subj", f"/CN={name}"),
            *("-keyout", made.key, "-out", request),
        )
        extensions = self._directory / f"{name}.ext"
        extensions.write_text(f"subjectAltName={','.join(addresses)}\n" if addresses else "basicConstraints=CA:false\n")
        _openssl(
            *("x509", "-req", "-in", request, "-CA", self.certificate, "-CAkey", self._key, "-CAcreateserial"),
            *("-days", "2", "-extfile", extensions, "-out", made.certificate),
        )
        return made


def _openssl(*arguments: str | Path) -> None:
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)
