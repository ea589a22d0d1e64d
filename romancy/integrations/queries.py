"""Reading a request's query: every parameter is known, given once, and of its kind."""

from __future__ import annotations

import math
from datetime import datetime
from typing import TYPE_CHECKING

import msgspec

from romancy.integrations.problems import invalid

if TYPE_CHECKING:
    from collections.abc import Sequence


class Query:
    """The parameters of a query, taken one by one.

    Every method raises `Problem` for a parameter that can't be used.
    """

    def __init__(self, query: Sequence[tuple[str, str]]) -> None:
        self._given: dict[str, list[str]] = {}
        for name, value in query:
            if "\0" in value or not value.isprintable():
                raise invalid(f"{name}={value!r} holds characters that can't be printed")
            self._given.setdefault(name, []).append(value)

    def finish(self) -> None:
        """Refuse what nobody has asked for."""
        for name in self._given:
            raise invalid(f"there is no parameter {name!r} here")

    def text(self, name: str) -> str | None:
        """Take a parameter; None: it is not given."""
        values = self._given.pop(name, None)
        if values is None:
            return None
        if len(values) > 1:
            raise invalid(f"{name} is given {len(values)} times")
        return values[0]

    def one_of(self, name: str, choices: tuple[str, ...]) -> str | None:
        """Take a parameter that is one of some words."""
        value = self.text(name)
        if value is not None and value not in choices:
            raise invalid(f"{name}={value!r}: use one of {', '.join(choices)}")
        return value

    def number(self, name: str, least: float = 0.0, most: float = math.inf) -> float | None:
        """Take a finite number within bounds."""
        value = self.text(name)
        if value is None:
            return None
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if not (math.isfinite(number) and least <= number <= most):
            raise invalid(f"{name}={value!r} must be a number {_range(least, most)}")
        return number

    def whole(self, name: str, least: int = -(2**31), most: int = 2**31 - 1) -> int | None:
        """Take a whole number within bounds."""
        value = self.text(name)
        if value is None:
            return None
        digits = value.removeprefix("-")
        is_whole = digits.isascii() and digits.isdigit() and len(digits) < 12  # noqa: PLR2004 - longer than any of them
        if not is_whole or not least <= int(value) <= most:
            raise invalid(f"{name}={value!r} must be a whole number {_range(least, most)}")
        return int(value)

    def instant(self, name: str) -> datetime | None:
        """Take an instant: RFC 3339, with its offset."""
        value = self.text(name)
        if value is None:
            return None
        try:
            instant = msgspec.convert(value, datetime)
        except msgspec.ValidationError:
            instant = None
        if instant is None or instant.tzinfo is None:
            raise invalid(f"{name}={value!r} must be an instant such as 2030-01-31T12:00:00Z")
        return instant

    def json(self, name: str) -> object:
        """Take a JSON value."""
        value = self.text(name)
        if value is None:
            return None
        try:
            return msgspec.json.decode(value)
        except (msgspec.DecodeError, UnicodeError, RecursionError) as exc:
            raise invalid(f'{name}={value!r} must be JSON, such as "packed" in its quotes: {exc}') from exc

    def tags(self, name: str) -> dict[str, str] | None:
        """Take a parameter that may come several times, each ``<tag>:<value>``."""
        found: dict[str, str] = {}
        for value in self._given.pop(name, ()):
            tag, colon, rest = value.partition(":")
            if not colon or tag in found:
                raise invalid(f"{name}={value!r} must be a tag and its value, such as customer:7, each tag once")
            found[tag] = rest
        return found or None


def _range(least: float, most: float) -> str:
    return f"from {least:g} to {most:g}" if math.isfinite(most) else f"not below {least:g}"
