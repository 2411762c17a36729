"""Rules for what people and machines are called."""

import re

from bmi.errors import InvalidInputError

_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_IMAGE_NAME = re.compile(r"[a-z0-9]([a-z0-9._-]{0,98}[a-z0-9])?")
_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")


def label(value: str, field: str = "name") -> str:
    """A DNS label (RFC 1123): names of nodes become host names."""
    if not _NAME.fullmatch(value):
        raise InvalidInputError(
            field,
            f"{value!r} is not a usable name.",
            remedy="Use 1 to 63 lower-case letters, digits and hyphens, beginning and ending with a letter or digit.",
        )
    return value


def image_name(value: str, field: str = "name") -> str:
    """As a label, and dots and underscores inside: `debian-12.5`."""
    if not _IMAGE_NAME.fullmatch(value):
        raise InvalidInputError(
            field,
            f"{value!r} is not a usable name.",
            remedy="Use 1 to 100 lower-case letters, digits, dots, underscores and hyphens, "
            "beginning and ending with a letter or digit.",
        )
    return value


def mac_address(value: str, field: str = "mac") -> str:
    """A unicast Ethernet address in the form `52:54:00:12:34:56`; `-` and upper case are accepted."""
    mac = value.strip().lower().replace("-", ":")
    if not _MAC.fullmatch(mac):
        raise InvalidInputError(
            field,
            f"{value!r} is not a MAC address.",
            remedy="Write six hexadecimal pairs, like 52:54:00:12:34:56.",
        )
    if int(mac[:2], 16) & 1 or mac == "00:00:00:00:00:00":
        raise InvalidInputError(
            field,
            f"{value!r} is a group or null address.",
            remedy="Give the address printed on the node's NIC.",
        )
    return mac
