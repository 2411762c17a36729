"""A web server on loopback with a certificate of its own authority, as unreliable as a test wants it."""

import re
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path
from threading import Thread

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID


@dataclass
class Site:
    """What the server gives, and how. Lists are used up from the front, one entry a request."""

    content: bytes = b""
    etags: list[str] = field(default_factory=lambda: ['"one"'])
    cuts: list[int] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)
    has_ranges: bool = True
    says_length: bool = True
    extra_length: int = 0
    wrong_range: bool = False
    redirects: dict[str, str] = field(default_factory=dict)
    drip_s: float = 0
    silent_s: float = 0
    ranges: list[str | None] = field(default_factory=list)
    port: int = 0
    ca_file: Path = Path()

    def url(self, path: str = "/disk", *, scheme: str = "https", host: str = "localhost") -> str:
        return f"{scheme}://{host}:{self.port}{path}"


@contextmanager
def running(directory: Path, *, tls: bool = True, host: str = "localhost") -> Iterator[Site]:
    """A server on 127.0.0.1; its certificate is for `host`."""
    site = Site()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(site))
    site.port = server.server_address[1]
    if tls:
        site.ca_file, chain = _certificates(directory, host)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(chain)
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    server.handle_error = lambda *_: None  # type: ignore[method-assign]  # clients that hang up are what is tested
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield site
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _handler(site: Site) -> type[BaseHTTPRequestHandler]:  # noqa: C901  one small server
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            site.ranges.append(self.headers.get("Range"))
            self.close_connection = True
            time.sleep(site.silent_s)
            if self.path in site.redirects:
                self.send_response(302)
                self.send_header("Location", site.redirects[self.path])
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            if site.statuses and (status := site.statuses.pop(0)) != 200:
                self.send_response(status)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self._send()

        def _send(self) -> None:
            etag = site.etags.pop(0) if len(site.etags) > 1 else site.etags[0]
            asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
            start = int(asked[1]) if asked and site.has_ranges and self.headers.get("If-Range") == etag else 0
            if start and start >= len(site.content):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(site.content) + site.extra_length}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            body = site.content[start:]
            self.send_response(206 if start else 200)
            self.send_header("ETag", etag)
            if start:
                first = start + 1 if site.wrong_range else start
                self.send_header(
                    "Content-Range", f"bytes {first}-{len(site.content) - 1}/{len(site.content)}"
                )
            if site.says_length:
                self.send_header("Content-Length", str(len(body) + site.extra_length))
            self.end_headers()
            cut = site.cuts.pop(0) if site.cuts else len(body)
            if site.drip_s:
                for value in body[:cut]:
                    self.wfile.write(bytes([value]))
                    time.sleep(site.drip_s)
            else:
                self.wfile.write(body[:cut])
            if not site.says_length and cut == len(body) and isinstance(self.connection, ssl.SSLSocket):
                self.connection.unwrap()  # a proper end

    return Handler


def _certificates(directory: Path, host: str) -> tuple[Path, Path]:
    """The authority's certificate, and the server's with its key."""
    authority_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    authority = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Test authority")])
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)])
    now = datetime.now(UTC)

    def signed(
        name: x509.Name, of: ec.EllipticCurvePrivateKey, extension: x509.ExtensionType
    ) -> x509.Certificate:
        return (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(authority)
            .public_key(of.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(extension, critical=True)
            .sign(authority_key, hashes.SHA256())
        )

    names: list[x509.GeneralName] = [x509.DNSName(host), x509.IPAddress(ip_address("127.0.0.1"))]
    ca = signed(authority, authority_key, x509.BasicConstraints(ca=True, path_length=None))
    own = signed(subject, key, x509.SubjectAlternativeName(names))
    ca_file, chain = directory / "ca.pem", directory / "server.pem"
    ca_file.write_bytes(ca.public_bytes(Encoding.PEM))
    secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    chain.write_bytes(own.public_bytes(Encoding.PEM) + secret)
    return ca_file, chain
