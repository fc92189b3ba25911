"""Catch the calls that ignore ``AWS_ENDPOINT_URL``: an HTTPS proxy answers for every host of AWS and refuses all others.

The certificates are made anew for each rehearsal and trusted only by programs that have its variables; the keys lie in its
folder and go with it.
"""

from __future__ import annotations

import contextlib
import datetime
import select
import socket
import ssl
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

LENGTH = 1 << 16
REFUSAL = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nX-Reason: a rehearsal leaves this machine for nowhere\r\n\r\n"


def is_aws(host: str) -> bool:
    """Tell whether a host belongs to AWS, in any of its partitions."""
    return host.endswith((".amazonaws.com", ".amazonaws.com.cn", ".api.aws", ".sagemaker.aws"))


class Authority:
    """A certificate authority of one rehearsal.

    Parameters
    ----------
    folder : Path
        Where certificates and keys go.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Rehearsal on this machine")])
        usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
        constraints = x509.BasicConstraints(ca=True, path_length=0)
        certificate = self._build(self._name, self._key, [(constraints, True), (usage, True)])
        self.path = folder / "authority.pem"
        self.path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        self._contexts: dict[str, ssl.SSLContext] = {}
        self._lock = threading.Lock()

    def context(self, host: str) -> ssl.SSLContext:
        """Make the TLS context of a server that stands in for `host`."""
        with self._lock:
            if host not in self._contexts:
                self._contexts[host] = self._issue(host)
            return self._contexts[host]

    def _issue(self, host: str) -> ssl.SSLContext:
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host[:64])])
        alternative = x509.SubjectAlternativeName([x509.DNSName(host)])
        certificate = self._build(name, key, [(alternative, False)])
        path = self.folder / f"{len(self._contexts)}.pem"
        private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        path.touch(mode=0o600)
        path.write_bytes(private + certificate.public_bytes(serialization.Encoding.PEM))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(path)
        return context

    def _build(self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, extensions: list) -> x509.Certificate:
        now = datetime.datetime.now(datetime.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(days=7))
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), False)
        )
        for extension, critical in extensions:
            builder = builder.add_extension(extension, critical)
        return builder.sign(self._key, hashes.SHA256())


def serve_proxy(authority: Authority, port: int) -> int:
    """Serve on loopback until the process ends, and pass what comes on to `port` of loopback; returns the proxy's own port."""
    listener = socket.create_server(("127.0.0.1", 0))

    def accept() -> None:
        while True:
            client, _ = listener.accept()
            _thread(partial(_handle, client, authority, port))

    _thread(accept)
    return listener.getsockname()[1]


def _handle(client: socket.socket, authority: Authority, port: int) -> None:
    with client:
        client.settimeout(30)
        head = b""
        while b"\r\n\r\n" not in head:
            if not (more := client.recv(LENGTH)) or len(head) > LENGTH:
                return
            head += more
        method, _, rest = head.decode("latin-1").partition(" ")
        host = rest.partition(" ")[0].rpartition(":")[0]
        if method != "CONNECT" or not is_aws(host):
            client.sendall(REFUSAL)
            return
        client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
        try:
            secure = authority.context(host).wrap_socket(client, server_side=True)
        except (ssl.SSLError, OSError):
            return  # the caller does not trust this rehearsal, as it should not without its variables
        secure.settimeout(None)
        with secure, socket.create_connection(("127.0.0.1", port)) as server:
            _relay(secure, server)


def _relay(secure: ssl.SSLSocket, server: socket.socket) -> None:
    """Pass on what comes from either side until one of them ends, in one thread: an SSL socket is not for two."""
    other = {secure: server, server: secure}
    with contextlib.suppress(OSError):
        while True:
            for source in [secure] if secure.pending() else select.select([secure, server], [], [])[0]:
                if not (data := source.recv(LENGTH)):
                    return
                other[source].sendall(data)


def _thread(work: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread
