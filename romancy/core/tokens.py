"""Tokens: what somebody outside has to know to finish an activity's attempt."""

from __future__ import annotations

import base64
import binascii

import msgspec


class Token(msgspec.Struct, frozen=True, array_like=True):
    """One attempt at an activity of one run of one start."""

    instance_id: str
    execution_id: int
    run: int
    activity_id: str
    attempt: int


_decoder = msgspec.json.Decoder(Token)


def encode_token(token: Token) -> str:
    """Return a token as text that may stand in a URL: letters, digits, ``-`` and ``_``."""
    return base64.urlsafe_b64encode(msgspec.json.encode(token)).decode().rstrip("=")


def decode_token(text: str) -> Token:
    """Return the token that a text stands for.

    Raises:
        ValueError: It stands for none.
    """
    try:
        padded = text.encode("ascii") + b"=" * (-len(text) % 4)
        return _decoder.decode(base64.b64decode(padded, altchars=b"-_", validate=True))
    except (AttributeError, UnicodeError, binascii.Error, msgspec.MsgspecError) as error:
        shown = repr(text) if len(repr(text)) <= 100 else f"{repr(text)[:100]}…"  # noqa: PLR2004 - what a line holds
        msg = f"{shown} is not a token of complete_later(): pass on what it returned, unchanged"
        raise ValueError(msg) from error
