# No `from __future__ import annotations` here: these annotations are objects.
import enum
import math
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any, Generic, NamedTuple, Optional, TypedDict, TypeVar

import attrs
import msgspec
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from romancy.core.codec import (
    DEFAULT_PAYLOAD_LIMIT,
    JsonCodec,
    Subject,
    _check_pydantic,
    check_size,
    decode_value,
    encode_value,
    is_record,
)
from romancy.errors import CodecError, PayloadTooLargeError

CODEC = JsonCodec()
WHAT = Subject("result", "activity", "charge")


class Colour(enum.Enum):
    RED = "red"


@dataclass
class Line:
    sku: str
    total: Decimal = Decimal("1.10")


@dataclass
class Order:
    id: int
    lines: list[Line] = field(default_factory=list[Line])
    weight: float | None = None


class Point(msgspec.Struct, frozen=True):
    x: int
    y: int = 0


@attrs.define
class Box:
    side: int


class Place(NamedTuple):
    city: str
    at: datetime


class Options(TypedDict, total=False):
    express: bool


class Item(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(strict=True)

    name: str
    day: date
    price: Decimal = Decimal(2)


class Basket(pydantic.BaseModel):
    items: list[Item]
    owner: str = pydantic.Field(default="me", alias="ownedBy")
    label: str = pydantic.Field(default="", serialization_alias="Label")
    note: str = pydantic.Field(default="", validation_alias="remark")


T = TypeVar("T")


class Page(pydantic.BaseModel, Generic[T]):
    entries: list[T]


class Names(pydantic.RootModel[list[str]]):
    pass


@dataclass
class Cart:
    basket: Basket
    by_name: dict[str, Item]


ITEM = Item(name="pen", day=date(2024, 2, 29))
BASKET = Basket.model_validate({"items": [ITEM], "ownedBy": "you", "label": "x", "remark": "fragile"})


def back(value: object, annotation: object) -> object:
    return CODEC.decoder(annotation)(CODEC.encode(value))


@pytest.mark.parametrize(
    ("value", "annotation"),
    [
        (None, None),
        (1, int),
        (2**70, int),
        ("☃", str),
        (b"\x00\xff", bytes),
        (1.5, float),
        (True, bool),
        (Colour.RED, Colour),
        (datetime(2024, 1, 2, 3, tzinfo=UTC), datetime),
        (timedelta(days=2, microseconds=5), timedelta),
        (uuid.UUID(int=7), uuid.UUID),
        (Decimal("1.10"), Decimal),
        (Order(1, [Line("a"), Line("b", Decimal("0.30"))]), Order),
        (Point(1, 2), Point),
        (Box(3), Box),
        (Place("Oslo", datetime(2024, 1, 1, tzinfo=UTC)), Place),
        ({"express": True}, Options),
        ({1, 2}, set[int]),
        (frozenset({"a"}), frozenset[str]),
        ((1, "a"), tuple[int, str]),
        ({1: Point(1)}, dict[int, Point]),
        ({Colour.RED: 1}, dict[Colour, int]),
        ([None, Point(1)], list[Point | None]),
        ({"a": [1, None, {"b": True}]}, Any),
        ({"a": [1, None, {"b": True}]}, object),
        (ITEM, Item),
        (BASKET, Basket),
        ([BASKET], list[Basket]),
        (None, Optional[Basket]),  # noqa: UP045 - the older spelling counts as well
        (Cart(BASKET, {"a": ITEM}), Cart),
        (Page[Item](entries=[ITEM]), Page[Item]),
        ([Page[int](entries=[1])], list[Page[int]]),
        (Names(["a"]), Names),
    ],
)
def test_json_codec_gives_back_what_it_took(value: object, annotation: object) -> None:
    found = back(value, annotation)
    assert found == value
    assert type(found) is type(value)


json_values: st.SearchStrategy[object] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(json_values)
def test_json_codec_gives_back_any_json(value: object) -> None:
    assert back(value, Any) == value


@given(st.builds(Order, st.integers(), st.lists(st.builds(Line, st.text())), st.none() | st.floats(-1e9, 1e9)))
def test_json_codec_gives_back_any_dataclass(order: Order) -> None:
    assert back(order, Order) == order


def nested(depth: int) -> list[object]:
    found: list[object] = []
    for _ in range(depth):
        found = [found]
    return found


def endless() -> dict[str, object]:
    found: dict[str, object] = {}
    found["self"] = found
    return found


class Odd:
    pass


class Raising(msgspec.Struct):
    value: object

    def __post_init__(self) -> None:
        raise ZeroDivisionError("on purpose")


@pytest.mark.parametrize(
    ("value", "problem", "path"),
    [
        (Odd(), "type Odd is unsupported", None),
        ({"order": [Order(1), Odd()]}, "type Odd is unsupported", "$.order[1]"),
        ({"a b": {"c": Odd()}}, "type Odd is unsupported", "$['a b'].c"),
        (Point(1, Odd()), "type Odd is unsupported", "$.y"),  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
        (Box(Odd()), "type Odd is unsupported", "$.side"),  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
        (Order(1, [Line("\ud800")]), "not valid Unicode", "$.lines[0].sku"),
        ({"a": {(1, 2): 3}}, "a dict key of type tuple is unsupported", "$.a"),
        ({"a": 1j}, "type complex is unsupported", "$.a"),
        (nested(100_000), "nested too deeply, or contains itself", None),
        (endless(), "nested too deeply, or contains itself", None),
        (Page[Any](entries=[Odd()]), "Odd", "$.entries[0]"),
    ],
)
def test_json_codec_names_the_field_that_it_cannot_encode(value: object, problem: str, path: str | None) -> None:
    with pytest.raises(CodecError) as caught:
        CODEC.encode(value)
    assert problem in str(caught.value)
    assert (f"`{path}`" in str(caught.value)) if path else ("`" not in str(caught.value))


class Reading(pydantic.BaseModel):
    level: float


def bare(number: float) -> object:
    return number


def in_a_dataclass(number: float) -> object:
    return Order(1, weight=number)


def in_a_dict(number: float) -> object:
    return {"a": [None, {1.5: number}]}


def in_a_model(number: float) -> object:
    return [Reading(level=number)]


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    ("wrap", "path"),
    [
        (bare, None),
        (in_a_dataclass, "$.weight"),
        (in_a_dict, "$.a[1][1.5]"),
        (in_a_model, "$[0].level"),
    ],
)
def test_json_codec_refuses_what_json_would_turn_into_null(
    wrap: Callable[[float], object], path: str | None, number: float
) -> None:
    with pytest.raises(CodecError, match=f"{number} is not a number in JSON") as caught:
        CODEC.encode(wrap(number))
    if path:
        assert f"`{path}`" in str(caught.value)


def test_json_codec_lets_null_pass_beside_what_it_cannot_search() -> None:
    assert CODEC.encode({"a": None, "b": msgspec.Raw(b"1"), "c": "null"}) == b'{"a":null,"b":1,"c":"null"}'


@pytest.mark.parametrize(
    ("data", "annotation", "message"),
    [
        (b'"x"', int, "Expected `int`, got `str`"),
        (b"", int, "Input data was truncated"),
        (b"{", Order, "Input data was truncated"),
        (b'{"id":1,"lines":[{"sku":2}]}', Order, "Expected `str`, got `int` - at `$.lines[0].sku`"),
        (b'{"id":1,"lines":[{}]}', Order, "missing required field `sku` - at `$.lines[0]`"),
        (b'{"name":"pen","day":"x"}', Item, "- at `$.day`"),
        (b'{"items":[{"name":"pen","day":"x"}]}', Basket, "- at `$.items[0].day`"),
        (b'[{"items":[{"name":"pen"}]}]', list[Basket], "Field required - at `$[0].items[0].day`"),
        (
            b'{"basket":{"items":[]},"by_name":{"a":{"name":1}}}',
            Cart,
            "- at `$.by_name[...].name`",
        ),
        (b"1", Item, "Input should be an object"),
        (b"[1]", list[Item], "Input should be an object - at `$[0]`"),
        (b"{", Item, "Invalid JSON"),
        (b'{"value":1}', Raising, "ZeroDivisionError: on purpose"),
        (b"[1]", list[Odd], "Decoding into Odd is unsupported - at `$[0]`"),
        (b"[" * 100_000 + b"]" * 100_000, Any, "nested too deeply"),
    ],
)
def test_json_decoder_names_the_field_that_does_not_fit(data: bytes, annotation: object, message: str) -> None:
    with pytest.raises(CodecError) as caught:
        CODEC.decoder(annotation)(data)
    assert message in str(caught.value)


def test_json_decoder_does_not_show_the_value_that_does_not_fit() -> None:
    with pytest.raises(CodecError) as caught:
        CODEC.decoder(list[Item])(b'[{"name":"pen","day":"hunter2"}]')
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("annotation", [Order | Line, Basket | Item, Basket | int])
def test_json_decoder_refuses_a_union_that_json_cannot_tell_apart(annotation: object) -> None:
    with pytest.raises(TypeError, match="union"):
        CODEC.decoder(annotation)


def test_encode_value_names_subject_type_and_field() -> None:
    with pytest.raises(CodecError) as caught:
        encode_value(CODEC, Order(1, weight=math.nan), WHAT)
    assert str(caught.value) == (
        "result of activity 'charge', of type Order, can't be encoded: "
        "nan is not a number in JSON: use None or a string - at `$.weight`"
    )


def test_decode_value_names_subject_and_field() -> None:
    with pytest.raises(CodecError) as caught:
        decode_value(CODEC.decoder(Order), b'{"id":"x"}', "message on channel 'orders'")
    assert str(caught.value) == (
        "message on channel 'orders' does not fit its annotation: Expected `int`, got `str` - at `$.id`"
    )


class TextCodec:
    """A codec that knows nothing of romancy, and so raises what it likes."""

    def encode(self, value: object) -> bytes:
        return bytes([int(str(value))])

    def decoder(self, annotation: object) -> Callable[[bytes], object]:
        return lambda data: data[0]


def test_values_of_another_codec_fail_with_the_same_error() -> None:
    assert decode_value(TextCodec().decoder(int), encode_value(TextCodec(), 7, WHAT), WHAT) == 7
    with pytest.raises(CodecError, match=r"result of activity 'charge'.*ValueError: invalid literal"):
        encode_value(TextCodec(), "x", WHAT)
    with pytest.raises(CodecError, match=r"result of activity 'charge'.*IndexError"):
        decode_value(TextCodec().decoder(int), b"", WHAT)


def test_check_size_names_subject_size_and_limit() -> None:
    check_size(b"x" * 2000, 2000, WHAT)
    with pytest.raises(PayloadTooLargeError, match=r"result of activity 'charge' is 2,001 bytes .* 2,000"):
        check_size(b"x" * 2001, 2000, WHAT)
    assert DEFAULT_PAYLOAD_LIMIT == 16 * 2**20


@pytest.mark.parametrize("cls", [Order, Point, Box, Item])
def test_is_record_knows_classes_of_records(cls: object) -> None:
    assert is_record(cls)


@pytest.mark.parametrize("cls", [int, dict, Colour, list[Order], Any, None, Order(1)])
def test_is_record_knows_nothing_else(cls: object) -> None:
    assert not is_record(cls)


@pytest.mark.parametrize("version", ["2.10.6", "1.10.2"])
def test_json_codec_refuses_a_pydantic_that_would_lose_fields(monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    _check_pydantic.cache_clear()
    monkeypatch.setattr(pydantic, "VERSION", version)
    with pytest.raises(CodecError, match=rf"pydantic 2\.11 or later, and this is {version}"):
        CODEC.encode(ITEM)
    with pytest.raises(CodecError, match=rf"pydantic 2\.11 or later, and this is {version}"):
        CODEC.decoder(Item)(b"{}")


def test_json_codec_finds_non_finite_numbers_beside_large_integers() -> None:
    assert CODEC.encode([None, 2**70]) == b"[null,1180591620717411303424]"
    with pytest.raises(CodecError, match=r"`\$\[1\]`"):
        CODEC.encode([2**70, math.inf])


def test_json_codec_is_not_misled_by_bytes_that_look_like_a_number() -> None:
    value: list[object] = [None, b"\xcb\x7f\xf0", 1.7976931348623157e308]
    assert CODEC.encode(value) == b'[null,"y3/w",1.7976931348623157e308]'
