"""Rules for what people and machines are called."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from bmi.errors import InvalidInputError

_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_IMAGE_NAME = re.compile(r"[a-z0-9]([a-z0-9._-]{0,98}[a-z0-9])?")
_USER_NAME = re.compile(r"[a-z0-9]([a-z0-9._@+-]{0,98}[a-z0-9])?")
_VERSION = re.compile(r"[1-9][0-9]{0,8}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_MAX_LABELS = 64
_MAX_LABEL_CHARACTERS = 200
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


def user_name(value: str, field: str = "name") -> str:
    """As an image's name, and what mail addresses have: `alice@example.org`."""
    if not _USER_NAME.fullmatch(value):
        raise InvalidInputError(
            field,
            f"{value!r} is not a usable name.",
            remedy="Use 1 to 100 lower-case letters, digits and any of . _ @ + -, beginning and ending with a letter "
            "or digit.",
        )
    return value


@dataclass(frozen=True)
class ImageReference:
    """What a person names an image with: `debian-12` is its newest ready version, `debian-12@3` that one."""

    name: str
    version: int | None = None

    def __str__(self) -> str:
        return self.name if self.version is None else f"{self.name}@{self.version}"


def image_reference(value: str, field: str = "image") -> ImageReference:
    """`NAME` or `NAME@VERSION`; the one parser for every place where an image is named."""
    name, at, version = value.partition("@")
    image_name(name, field)
    if not at:
        return ImageReference(name)
    if not _VERSION.fullmatch(version):
        raise InvalidInputError(
            field,
            f"{value!r} names no version.",
            remedy=f"Write a number behind the @, like {name}@3, or leave both out for the newest.",
        )
    return ImageReference(name, int(version))


def labels(value: Mapping[str, str], field: str = "labels") -> dict[str, str]:
    """Free marks of an image: keys as image names are, values of up to 200 printable characters."""
    if len(value) > _MAX_LABELS:
        raise InvalidInputError(
            field, f"there are more than {_MAX_LABELS}.", remedy="Remove some: --unlabel KEY."
        )
    for key, text in value.items():
        image_name(key, field)
        if len(text) > _MAX_LABEL_CHARACTERS or not text.isprintable():
            raise InvalidInputError(
                field,
                f"the value of {key!r} cannot be used.",
                remedy=f"Use up to {_MAX_LABEL_CHARACTERS} printable characters.",
            )
    return dict(value)


def sha256(value: str, field: str = "sha256") -> str:
    """A SHA-256 checksum in lower-case hexadecimal digits."""
    digits = value.strip().lower()
    if not _SHA256.fullmatch(digits):
        raise InvalidInputError(
            field,
            f"{value[:80]!r} is no SHA-256 checksum.",
            remedy="Give its 64 hexadecimal digits, as sha256sum prints them.",
        )
    return digits


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
