"""How a user's value becomes bytes and comes back.

A `Codec` only has to encode and decode, and may raise whatever it likes; `encode_value` and `decode_value`
turn that into a `CodecError` that names the subject (`What`) and the field.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import re
import sys
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol, TypeAlias, cast

import msgspec

from romancy.errors import CodecError, PayloadTooLargeError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

DEFAULT_PAYLOAD_LIMIT: Final = 16 * 1024 * 1024
"""The largest encoded value, in bytes, unless an App says otherwise."""

_DEPTH_LIMIT = 32  # how far a path to an unencodable value is followed; a cyclic value has no end
_PROBLEM_LIMIT = 3  # of pydantic's list of what is wrong, as many as a reader takes in


class Subject(NamedTuple):
    """What a value is to the one who reads an error about it; it becomes text only then."""

    part: str
    kind: str
    name: str

    def __str__(self) -> str:
        return f"{self.part} of {self.kind} {self.name!r}"


What: TypeAlias = str | Subject
"""The subject of an error, such as ``Subject("result", "activity", "charge")`` or its text."""


class Codec(Protocol):
    """Turn values into bytes and back. A codec keeps no state that a later call depends on."""

    def encode(self, value: object) -> bytes:
        """Return ``value`` as a JSON document; raise anything for what can't be one."""
        ...

    def decoder(self, annotation: object) -> Callable[[bytes], object]:
        """Return a compiled decoder for ``annotation``, which raises anything for bytes that don't fit.

        Compiling is slow and decoding is not: callers keep the decoder.

        Raises:
            TypeError: The annotation can't be decoded into.
        """
        ...


class JsonCodec:
    """JSON by msgspec: everything that it takes, and pydantic v2 models wherever they stand in a value.

    What JSON can't tell apart comes back as the annotation says: under ``Any`` a tuple or a set becomes a
    list, a datetime a string, and a dataclass a dict. NaN and the infinities are refused, because JSON would
    hold null. A subclass *inside* a value comes back as the annotated class.

    A pydantic model (2.11 or later) is dumped in its JSON mode, by field name: what its serialiser masks
    (``SecretStr``) or leaves out is not stored.
    """

    def encode(self, value: object) -> bytes:
        """Return ``value`` as JSON.

        Raises:
            CodecError: The value, or something in it, can't be encoded; the message says where.
        """
        try:
            data = _ENCODER.encode(value)
        except Exception as error:
            path, culprit = _locate(value, _is_unencodable)
            raise CodecError(_at(_reason(error, culprit), path)) from error
        if value is not None and b"null" in data and _holds_non_finite(value):
            path, culprit = _locate(value, _holds_non_finite)
            shown = repr(culprit) if isinstance(culprit, float) else "NaN or an infinity"
            raise CodecError(_at(f"{shown} is not a number in JSON: use None or a string", path))
        return data

    def decoder(self, annotation: object) -> Callable[[bytes], object]:
        """Return a compiled decoder for ``annotation``.

        It raises `CodecError` with the path of the field for bytes that don't fit.

        Raises:
            TypeError: msgspec can't decode into the annotation.
        """
        decode: Callable[[bytes], object]
        if _is_model(annotation):
            decode = functools.partial(_decode_model, annotation)
        else:
            decode = msgspec.json.Decoder(cast("type[object]", annotation), dec_hook=_dec_hook).decode

        def decode_json(data: bytes) -> object:
            try:
                return decode(data)
            except Exception as error:
                raise CodecError(_decode_problem(error)) from error

        return decode_json


def encode_value(codec: Codec, value: object, what: What) -> bytes:
    """Return ``value`` encoded.

    Raises:
        CodecError: It can't be; the message names ``what``, the value's type and the field.
    """
    try:
        return codec.encode(value)
    except Exception as error:
        raise encode_error(error, value, what) from error


def decode_value(decoder: Callable[[bytes], object], data: bytes, what: What) -> object:
    """Return ``data`` decoded by one of a codec's decoders.

    Raises:
        CodecError: It does not fit; the message names ``what`` and the field.
    """
    try:
        return decoder(data)
    except Exception as error:
        raise CodecError(f"{what} does not fit its annotation: {_text(error)}") from error


def encode_error(error: Exception, value: object, what: What) -> CodecError:
    """Return the error that says that ``value`` can't be encoded, for ``raise … from error``."""
    return CodecError(f"{what}, of type {type(value).__qualname__}, can't be encoded: {_text(error)}")


def check_size(data: bytes, limit: int, what: What) -> None:
    """Refuse an encoded value of more than ``limit`` bytes.

    Raises:
        PayloadTooLargeError: The message names ``what``, the size and the limit.
    """
    if len(data) > limit:
        raise PayloadTooLargeError(
            f"{what} is {len(data):,} bytes encoded and the limit is {limit:,}: store it elsewhere and pass a reference"
        )


def is_record(cls: object) -> bool:
    """Tell whether ``cls`` is a class of records: a dataclass, Struct, attrs class or pydantic model."""
    if not isinstance(cls, type):
        return False
    kind = cast("type[object]", cls)
    return (
        dataclasses.is_dataclass(kind)
        or issubclass(kind, msgspec.Struct)
        or hasattr(kind, "__attrs_attrs__")
        or _is_model(kind)
    )


def _text(error: Exception) -> str:
    if isinstance(error, CodecError):
        return str(error)
    return f"{type(error).__name__}: {error}"


def _at(problem: str, path: str) -> str:
    return f"{problem} - at `{path}`" if path != "$" else problem


def _reason(error: Exception, culprit: object) -> str:
    match error:
        case RecursionError():
            return "it is nested too deeply, or contains itself"
        case UnicodeEncodeError():
            return f"it is not valid Unicode ({error.reason})"
        case TypeError() | ValueError():
            return str(error)
        case _:
            return f"{type(error).__name__} while encoding a {type(culprit).__qualname__}: {error}"


def _enc_hook(value: object) -> object:
    if isinstance(value, (tuple, frozenset)):  # only as a key does msgspec ask about one
        raise TypeError(f"a dict key of type {type(cast('object', value)).__qualname__} is unsupported")
    if not _is_model(type(value)):
        raise TypeError(f"Encoding objects of type {type(value).__qualname__} is unsupported")
    _check_pydantic()
    # Not `model_dump`, which models override for their own readers.
    serializer = cast("Any", value).__pydantic_serializer__
    dumped: object = serializer.to_python(value, mode="json", by_alias=False, round_trip=True, warnings=False)
    return dumped


_ENCODER = msgspec.json.Encoder(enc_hook=_enc_hook)
_PACKER = msgspec.msgpack.Encoder(enc_hook=_enc_hook)
_LIKE_NON_FINITE = re.compile(rb"\xcb[\x7f\xff][\xf0-\xff]")  # a double with all bits of its exponent set
_STRICT_JSON = json.JSONEncoder(allow_nan=False)


def _dec_hook(cls: type[object], value: object) -> object:
    if _is_model(cls):
        # JSON once more, since models read JSON less strictly than Python objects.
        return _decode_model(cls, _ENCODER.encode(value))
    if isinstance(value, cls):
        return value
    raise TypeError(f"Decoding into {cls.__qualname__} is unsupported")


class _ModelProblems(ValueError):
    """What pydantic found wrong: (problem, path within the model); msgspec keeps it as its error's cause."""

    text = "the model does not validate"

    def __init__(self, problems: list[tuple[str, str]]) -> None:
        super().__init__(self.text)
        self.problems = problems


def _is_model(cls: object) -> bool:
    pydantic = sys.modules.get("pydantic")
    return pydantic is not None and isinstance(cls, type) and issubclass(cls, pydantic.BaseModel)


@functools.cache
def _check_pydantic() -> None:
    """Refuse a pydantic that can't validate by field name whatever the aliases: it would lose fields."""
    version: str = sys.modules["pydantic"].VERSION
    major, minor = version.split(".")[:2]
    if (int(major), int(minor)) < (2, 11):
        raise TypeError(f"models need pydantic 2.11 or later, and this is {version}")


def _decode_model(model: object, data: bytes) -> object:
    pydantic = sys.modules["pydantic"]
    _check_pydantic()
    try:
        return cast("Any", model).model_validate_json(data, by_alias=True, by_name=True)
    except pydantic.ValidationError as error:
        details = cast(
            "list[Mapping[str, object]]",
            error.errors(include_url=False, include_context=False, include_input=False),
        )
        raise _ModelProblems(
            [
                (str(detail["msg"]), _join(cast("tuple[str | int, ...]", detail["loc"])))
                for detail in details[:_PROBLEM_LIMIT]
            ]
        ) from error


def _join(location: tuple[str | int, ...]) -> str:
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in location)


def _decode_problem(error: Exception) -> str:
    """Return what msgspec or pydantic says, with one path from the root whoever found it."""
    found = error if isinstance(error, _ModelProblems) else error.__cause__
    if isinstance(found, _ModelProblems):
        # msgspec appends the path to the model, if it is not the root.
        base = str(error).removeprefix(f"{found.text} - at `").removesuffix("`") if error is not found else "$"
        base = base if base.startswith("$") else "$"
        return "; ".join(_at(problem, base + path) for problem, path in found.problems)
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    return str(error) if isinstance(error, (msgspec.MsgspecError, TypeError)) else _text(error)


def _is_unencodable(value: object) -> bool:
    try:
        _ENCODER.encode(value)
    except Exception:  # noqa: BLE001 - whatever the value's own code raises
        return True
    return False


def _holds_non_finite(value: object) -> bool:
    """Tell whether msgspec wrote null for a NaN or an infinity.

    MessagePack keeps them, and takes as long as JSON; usually nothing in it looks like one. Where something
    does, the standard library says for certain.
    """
    try:
        if not _LIKE_NON_FINITE.search(_PACKER.encode(value)):
            return False
    except Exception:  # noqa: BLE001, S110 - then the slower look below decides
        pass
    try:
        builtins = msgspec.to_builtins(value, str_keys=True, enc_hook=_to_builtins_hook)
    except Exception:  # noqa: BLE001 - what can't be looked at holds no NaN that would be written
        return False
    try:
        _STRICT_JSON.encode(builtins)
    except ValueError:
        return True
    return False


def _to_builtins_hook(value: object) -> object:
    if isinstance(value, msgspec.Raw):
        return None  # already JSON
    return _enc_hook(value)


def _locate(value: object, is_bad: Callable[[object], bool]) -> tuple[str, object]:
    """Return the path to the innermost bad thing in a bad ``value``, and that thing."""
    path = "$"
    for _ in range(_DEPTH_LIMIT):
        try:
            step, child = next((step, child) for step, child in _children(value) if is_bad(child))
        except Exception:  # noqa: BLE001 - the path ends where a value can't be looked into
            return path, value
        path, value = path + step, child
    return "$", value  # it contains itself


def _children(value: object) -> Iterator[tuple[str, object]]:
    if isinstance(value, dict):
        for key, item in cast("dict[object, object]", value).items():
            yield f".{key}" if isinstance(key, str) and key.isidentifier() else f"[{key!r}]", item
    elif isinstance(value, (list, tuple, set, frozenset)):
        for index, item in enumerate(cast("Iterable[object]", value)):
            yield f"[{index}]", item
    else:
        for name in _field_names(value):
            yield f".{name}", getattr(value, name)


def _field_names(value: object) -> tuple[str, ...]:
    if isinstance(value, msgspec.Struct):
        return value.__struct_fields__
    if dataclasses.is_dataclass(value):
        return tuple(field.name for field in dataclasses.fields(value))
    if hasattr(value, "__attrs_attrs__"):
        return tuple(field.name for field in cast("Any", value).__attrs_attrs__)
    return tuple(vars(value)) if _is_model(type(value)) else ()
