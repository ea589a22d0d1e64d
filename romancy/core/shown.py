"""What an instance shows to clients while it runs: tags and a custom status, within bounds."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import msgspec

from romancy.core.codec import check_size, encode_value
from romancy.errors import CodecError, PayloadTooLargeError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from romancy.core.codec import Codec

TAG_LIMIT = 32
"""How many tags one start or one run may set."""
TAG_NAME_LIMIT = 64
TAG_VALUE_LIMIT = 256
"""Characters."""
CUSTOM_STATUS_LIMIT = 16 * 1024
"""Bytes, encoded: it lies in the instance's row and in an index."""

_encode = msgspec.json.Encoder(order="sorted").encode


def check_tags(tags: Mapping[str, str | None], what: str, *, is_removable: bool = False) -> dict[str, str | None]:
    """Return a copy of tags that can be stored.

    Args:
        tags: Values by name.
        what: The function that the author called, for the message.
        is_removable: Admit None as a value.

    Raises:
        CodecError: They are no mapping of printable strings to printable strings.
        PayloadTooLargeError: They are too many, or one of them is too long.
    """
    given: object = tags
    if not hasattr(given, "items"):
        msg = f"{what} needs a mapping of strings to strings, such as {{'customer': '42'}}, not {given!r}"
        raise CodecError(msg)
    found = dict(cast("Mapping[object, object]", given).items())
    check_tag_count(len(found), what)
    for name, value in found.items():
        if not isinstance(name, str) or not name or not name.isprintable():
            msg = f"{what}: {name!r} can't name a tag: use 1 to {TAG_NAME_LIMIT} printable characters"
            raise CodecError(msg)
        if value is None and is_removable:
            continue
        if not isinstance(value, str) or not value.isprintable():
            msg = f"{what}: tag {name!r} is {value!r}: use a string of printable characters"
            raise CodecError(msg)
        if len(name) > TAG_NAME_LIMIT or len(value) > TAG_VALUE_LIMIT:
            msg = (
                f"{what}: tag {name[:TAG_NAME_LIMIT]!r} is too long: a name has at most {TAG_NAME_LIMIT} characters, "
                f"a value {TAG_VALUE_LIMIT}"
            )
            raise PayloadTooLargeError(msg)
    return cast("dict[str, str | None]", found)


def check_tag_count(count: int, what: str) -> None:
    """Raise `PayloadTooLargeError` if there are too many tags."""
    if count > TAG_LIMIT:
        msg = f"{what}: {count} tags are too many: at most {TAG_LIMIT} can be set by a start or a run"
        raise PayloadTooLargeError(msg)


def encode_custom_status(codec: Codec, value: object, what: str) -> bytes:
    """Return a custom status as canonical JSON: equal values have equal bytes, whatever the order of their keys.

    Raises:
        CodecError: It can't be encoded.
        PayloadTooLargeError: It is too large.
    """
    payload = encode_value(codec, value, what)
    check_size(payload, CUSTOM_STATUS_LIMIT, what)
    return _encode(msgspec.json.decode(payload))
