"""Which addresses a download may come from: what a stranger's URL names must not become a door into our network."""

import socket
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from urllib.parse import SplitResult, urlsplit

from bmi.errors import DriverError, ForbiddenError, InvalidInputError

Network = IPv4Network | IPv6Network

# Public by its number, but each Azure machine's own metadata service.
_REFUSED = {IPv4Address("168.63.129.16")}
_NAT64 = IPv6Network("64:ff9b::/96")
_DEFAULT_PORTS = {"https": 443, "http": 80}


def check_url(url: str, *, allow_http: bool) -> SplitResult:
    """The parts of a URL that may be asked; InvalidInputError otherwise. Nothing is looked up."""
    try:
        parts = urlsplit(url)
        named = bool(parts.hostname and port_of(parts))
    except ValueError:
        named = False
    if not named or not (url.isascii() and url.isprintable()) or " " in url:
        raise InvalidInputError("url", "is not an address like https://host/path, in plain characters.")
    if parts.scheme not in ({"https", "http"} if allow_http else {"https"}):
        raise InvalidInputError(
            "url",
            f"must begin with https://, not {parts.scheme}://.",
            remedy="An administrator can allow http:// too (image.url_allow_http); give --sha256 with it.",
        )
    if parts.username is not None or parts.password is not None:
        raise InvalidInputError(
            "url", "must hold no user name and no password; it is written down and shown."
        )
    return parts


def port_of(parts: SplitResult) -> int:
    return parts.port or _DEFAULT_PORTS.get(parts.scheme, 443)


def shown(parts: SplitResult) -> str:
    """The URL for people and logs: without its query, which may be a key."""
    return f"{parts.scheme}://{parts.hostname}{parts.path}"


def resolve(parts: SplitResult, allowed: Sequence[Network]) -> list[str]:
    """The addresses of the URL's host, all of which may be asked.

    Raises ForbiddenError when one of them is neither public nor in `allowed`, DriverError when there is none.
    """
    host = parts.hostname or ""
    try:
        found = socket.getaddrinfo(host, port_of(parts), type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise DriverError(f"The host {host} of the URL was not found: {error}.") from error
    addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
    for address in addresses:
        if not may_be_asked(address, allowed):
            raise ForbiddenError(
                f"The host {host} of the URL has the address {address}, which is not a public one.",
                remedy="An administrator can allow networks of mirrors: image.url_networks.",
            )
    return addresses


def may_be_asked(address: str, allowed: Sequence[Network]) -> bool:
    """Whether an address is public, or in one of the networks `allowed`; never true for two-faced ones."""
    real = _innermost(ip_address(address.partition("%")[0]))
    if any(real.version == network.version and real in network for network in allowed):
        return True
    return real.is_global and not real.is_multicast and real not in _REFUSED


def _innermost(address: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    """The IPv4 address that an IPv6 one stands for."""
    if isinstance(address, IPv4Address):
        return address
    if address in _NAT64:
        return IPv4Address(int(address) & 0xFFFF_FFFF)
    teredo = address.teredo
    return address.ipv4_mapped or address.sixtofour or (teredo[1] if teredo else None) or address
