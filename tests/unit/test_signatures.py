from __future__ import annotations

import functools
import gc
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Never, TypedDict, Unpack

import msgspec
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from romancy.core.codec import JsonCodec, Subject
from romancy.core.signatures import Signature
from romancy.errors import CodecError, DefinitionError

if TYPE_CHECKING:
    from fractions import Fraction

CODEC = JsonCodec()
RESULT = Subject("result", "activity", "charge")
INPUT = Subject("argument", "workflow", "fulfil")


@dataclass
class Order:
    id: int
    total: float = 0.0


@dataclass
class Gift(Order):
    note: str = ""


@dataclass
class Refund:
    id: int
    total: float = 0.0


class Point(msgspec.Struct):
    x: int


class Near(Point):
    pass


class Circle(msgspec.Struct, tag=True):
    r: float


class Square(msgspec.Struct, tag=True):
    a: float


class Model(pydantic.BaseModel):
    x: int


class SubModel(Model):
    y: int = 0


class Settings(TypedDict, total=False):
    express: bool
    colour: str


async def fulfil(order: Order, count: int = 1, *, label: str | None = None) -> Order:
    raise NotImplementedError


async def spread(a: int, /, b: int, *rest: Point, c: int = 3, **extra: Point) -> None: ...


FULFIL = Signature(fulfil)
SPREAD = Signature(spread)


def encode(signature: Signature, *args: object, **kwargs: object) -> bytes:
    return signature.bind_encode(CODEC, args, kwargs, INPUT)


def decode(signature: Signature, data: bytes) -> tuple[tuple[object, ...], dict[str, object]]:
    return signature.decode_arguments(CODEC, data, INPUT)


def through(fn: Callable[..., object], *args: object, **kwargs: object) -> object:
    """Call ``fn`` with its arguments as they come back."""
    signature = Signature(fn)
    decoded_args, decoded_kwargs = decode(signature, encode(signature, *args, **kwargs))
    return fn(*decoded_args, **decoded_kwargs)


def result(fn: Callable[..., object], value: object) -> object:
    signature = Signature(fn)
    data, decoded = signature.encode_result(CODEC, value, RESULT)
    assert signature.decode_result(CODEC, data, RESULT) == decoded
    return decoded


def test_bind_encode_writes_an_object_by_parameter_name_with_defaults() -> None:
    assert encode(FULFIL, Order(1)) == b'{"order":{"id":1,"total":0.0},"count":1,"label":null}'


def test_bind_encode_writes_variadic_parameters_under_their_names() -> None:
    data = encode(SPREAD, 1, 2, Point(3), Point(4), a=Point(5))
    assert data == b'{"a":1,"b":2,"rest":[{"x":3},{"x":4}],"c":3,"extra":{"a":{"x":5}}}'


def test_arguments_come_back_in_the_kinds_of_their_parameters() -> None:
    data = encode(SPREAD, 1, 2, Point(3), c=4, a=Point(5))
    assert decode(SPREAD, data) == ((1, 2, Point(3)), {"c": 4, "a": Point(5)})
    assert decode(FULFIL, encode(FULFIL, count=2, order=Order(1))) == ((Order(1), 2), {"label": None})


def test_arguments_of_a_function_without_parameters_are_empty() -> None:
    def nothing() -> None: ...

    assert encode(Signature(nothing)) == b"{}"
    assert decode(Signature(nothing), b"{}") == ((), {})


def test_arguments_may_have_any_name() -> None:
    def odd(self: int, bind: int, cls: int = 1, *, __struct_fields__: int = 2, p0: int = 3) -> object:
        return self, bind, cls, __struct_fields__, p0

    assert through(odd, 5, 6, p0=7) == (5, 6, 1, 2, 7)


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [
        ((), {}),
        ((Order(1), 2, 3), {}),
        ((Order(1),), {"order": Order(2)}),
        ((Order(1),), {"odd": 1}),
        ((), {"count": 1}),
    ],
)
def test_bind_encode_of_a_wrong_call_raises_what_python_would(
    args: tuple[object, ...], kwargs: dict[str, object]
) -> None:
    with pytest.raises(TypeError) as expected:
        _ = fulfil(*args, **kwargs)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    with pytest.raises(TypeError) as found:
        encode(FULFIL, *args, **kwargs)
    assert str(found.value) == str(expected.value)


def test_bind_encode_takes_positional_only_parameters_by_position_alone() -> None:
    def give(a: int, b: int = 2, /) -> tuple[int, int]:
        return a, b

    assert through(give, 1) == (1, 2)
    with pytest.raises(TypeError, match="positional-only"):
        encode(Signature(give), a=1)


@given(
    order=st.builds(Order, st.integers(), st.floats(allow_nan=False, allow_infinity=False)),
    count=st.integers(),
    label=st.none() | st.text(),
)
def test_arguments_come_back_equal(order: Order, count: int, label: str | None) -> None:
    data = encode(FULFIL, order, count, label=label)
    assert decode(FULFIL, data) == ((order, count), {"label": label})


def test_bind_encode_names_the_field_that_does_not_fit() -> None:
    with pytest.raises(CodecError) as caught:
        encode(FULFIL, Order(1, "x"))  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    assert str(caught.value) == (
        "argument of workflow 'fulfil' does not fit fulfil: "
        "Expected `float`, got `str` - at `$.order.total` (given a Order)"
    )


def test_bind_encode_names_the_argument_that_cannot_be_encoded() -> None:
    with pytest.raises(CodecError) as caught:
        encode(FULFIL, Order(1, float("inf")))
    assert str(caught.value) == (
        "argument of workflow 'fulfil': 'order', of type Order, can't be encoded: "
        "inf is not a number in JSON: use None or a string - at `$.order.total`"
    )


@pytest.mark.parametrize("order", [Gift(1), Refund(1)])
def test_bind_encode_refuses_a_record_of_another_class(order: Any) -> None:
    name = type(order).__name__
    with pytest.raises(CodecError, match=f"'order' is of class {name} and would come back as Order"):
        encode(FULFIL, order)


def test_bind_encode_takes_a_dict_for_a_record() -> None:
    assert decode(FULFIL, encode(FULFIL, {"id": 1}))[0][0] == Order(1)


def test_bind_encode_reads_a_default_of_none_as_optional() -> None:
    def give(a: Order = None, b: list[int] = None) -> object:  # type: ignore[assignment] # noqa: RUF013 # pyright: ignore[reportArgumentType]
        return a, b

    assert through(give) == (None, None)
    assert through(give, Order(1), [2]) == (Order(1), [2])


def test_decode_arguments_gives_an_added_parameter_its_default() -> None:
    marker = [1]

    def later(order: Order, added: list[int] = marker, *rest: int, other: str = "x", **extra: int) -> None:
        pass

    args, kwargs = decode(Signature(later), b'{"order":{"id":1}}')
    assert args == (Order(1), [1])
    assert args[1] is marker
    assert kwargs == {"other": "x"}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b'{"order":{"id":1},"removed":2}', "unknown field `removed`"),
        (b'{"count":1}', "missing required field `order`"),
        (b'{"order":{"id":"x"}}', "Expected `int`, got `str` - at `$.order.id`"),
        (b"[]", "Expected `object`, got `array`"),
        (b"", "truncated"),
    ],
)
def test_decode_arguments_refuses_what_does_not_fit_any_more(data: bytes, message: str) -> None:
    with pytest.raises(CodecError) as caught:
        decode(FULFIL, data)
    assert str(caught.value).startswith("argument of workflow 'fulfil' does not fit fulfil: ")
    assert message in str(caught.value)


def test_arguments_take_an_unpacked_typed_dict() -> None:
    def give(**settings: Unpack[Settings]) -> Settings:
        return settings

    assert through(give, express=True, colour="red") == {"express": True, "colour": "red"}
    with pytest.raises(CodecError, match=r"`\$\.settings\.express`"):
        encode(Signature(give), express="x")


def test_encode_result_gives_the_bytes_and_what_they_say() -> None:
    assert FULFIL.encode_result(CODEC, Order(1, 2), RESULT) == (b'{"id":1,"total":2}', Order(1, 2.0))


def number() -> float: ...  # type: ignore[empty-body]
def pair() -> tuple[int, str]: ...  # type: ignore[empty-body]
def bare(): ...  # type: ignore[no-untyped-def] # noqa: ANN201
def nothing() -> None: ...
def never() -> Never: ...  # type: ignore[empty-body]
def thing() -> object: ...
def order_or_none() -> Order | None: ...
def orders() -> list[Order]: ...  # type: ignore[empty-body]
def mapping() -> dict[str, object]: ...  # type: ignore[empty-body]
def bounded() -> Annotated[int, msgspec.Meta(ge=0)]: ...  # type: ignore[empty-body]
def point() -> Point: ...  # type: ignore[empty-body]
def model() -> Model: ...  # type: ignore[empty-body]
def shape() -> Circle | Square: ...  # type: ignore[empty-body]
def order_or_refund() -> Order | Refund: ...  # type: ignore[empty-body]


@pytest.mark.parametrize(
    ("fn", "value", "expected"),
    [
        (number, 1, 1.0),
        (pair, [1, "a"], (1, "a")),
        (bare, (1, None), [1, None]),
        (bare, Order(1), {"id": 1, "total": 0.0}),
        (nothing, None, None),
        (thing, Point(1), {"x": 1}),
        (order_or_none, None, None),
        (order_or_none, Order(1), Order(1)),
        (orders, [Order(1)], [Order(1)]),
        (orders, (Order(1),), [Order(1)]),
        (mapping, {"a": 1}, {"a": 1}),
        (bounded, 0, 0),
        (model, Model(x=1), Model(x=1)),
        (shape, Square(2.0), Square(2.0)),
    ],
)
def test_encode_result_gives_what_replay_will_see(fn: Callable[..., object], value: object, expected: object) -> None:
    found = result(fn, value)
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(
    ("fn", "value", "message"),
    [
        (nothing, 5, "result of activity 'charge', of type int, does not fit the annotation `-> None`"),
        (number, "x", "Expected `float`, got `str`"),
        (number, float("nan"), "of type float, can't be encoded: nan is not a number in JSON"),
        (bare, [float("inf")], "inf is not a number in JSON: use None or a string - at `$[0]`"),
        (number, None, "Expected `float`, got `null`"),
        (bounded, -1, "Expected `int` >= 0"),
        (bare, bare, "function is unsupported"),
        (orders, [Order(1), Order("x")], "Expected `int`, got `str` - at `$[1].id`"),  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    ],
)
def test_encode_result_refuses_what_does_not_come_back(fn: Callable[..., object], value: object, message: str) -> None:
    with pytest.raises(CodecError) as caught:
        result(fn, value)
    assert str(caught.value).startswith("result of activity 'charge'")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("fn", "value", "decoded"),
    [
        (fulfil, Gift(1), "Order"),
        (fulfil, Refund(1), "Order"),
        (fulfil, {"id": 1}, "Order"),
        (order_or_none, Gift(1), "Order"),
        (point, Near(1), "Point"),
        (model, SubModel(x=1), "Model"),
        (mapping, Order(1), "dict"),
    ],
)
def test_encode_result_refuses_a_record_that_would_come_back_as_another(
    fn: Callable[..., object], value: object, decoded: str
) -> None:
    name = type(value).__name__
    with pytest.raises(CodecError, match=f"'charge' is of class {name} and would come back as {decoded}"):
        result(fn, value)


def test_decode_result_names_subject_annotation_and_field() -> None:
    with pytest.raises(CodecError) as caught:
        FULFIL.decode_result(CODEC, b'{"id":"x"}', RESULT)
    assert "result of activity 'charge' does not fit" in str(caught.value)
    assert "Order` of fulfil: Expected `int`, got `str` - at `$.id`" in str(caught.value)


def test_signature_result_decoder_is_that_of_the_return_annotation() -> None:
    assert FULFIL.result_decoder(CODEC)(b'{"id":1}') == Order(1)
    assert Signature(bare).result_decoder(CODEC)(b'{"id":1}') == {"id": 1}


def test_signature_resolves_names_from_the_namespace() -> None:
    @dataclass
    class Local:
        x: int

    def give(value: Local, more: list[Local] | None = None) -> Local:
        return value

    signature = Signature(give, namespace=locals())
    assert decode(signature, encode(signature, Local(1), [Local(2)])) == ((Local(1), [Local(2)]), {})
    assert signature.encode_result(CODEC, Local(3), RESULT) == (b'{"x":3}', Local(3))


def test_signature_resolves_names_that_the_function_closes_over() -> None:
    @dataclass
    class Local:
        x: int

    def give(value: Local) -> object:
        return Local(value.x + 1)

    assert through(give, Local(1)) == Local(2)


def test_signature_resolves_a_later_name_at_first_use() -> None:
    def give(value: Defined) -> Defined:
        return value

    signature = Signature(give)
    assert decode(signature, encode(signature, Defined(1))) == ((Defined(1),), {})


class Defined(msgspec.Struct):
    x: int


def test_signature_does_not_keep_the_namespace_alive() -> None:
    class Local(msgspec.Struct, weakref=True):
        x: int

    def give(value: int) -> int:
        return value

    held = Local(1)
    found = weakref.ref(held)
    signature = Signature(give, namespace={"held": held})
    del held
    gc.collect()
    assert found() is None
    assert encode(signature, 1) == b'{"value":1}'


def test_signature_of_a_name_that_stays_missing_says_where_and_what_to_do() -> None:
    def give(ratio: list[Fraction]) -> None: ...

    signature = Signature(give)
    with pytest.raises(DefinitionError) as caught:
        encode(signature, [])
    message = str(caught.value)
    assert "give: the annotation `list[Fraction]` of parameter 'ratio' can't be resolved" in message
    assert "name 'Fraction' is not defined" in message
    assert "TYPE_CHECKING" in message


def test_signature_of_a_missing_result_says_so_at_every_use() -> None:
    def give() -> Fraction: ...  # type: ignore[empty-body]

    signature = Signature(give)
    for _ in range(2):
        with pytest.raises(DefinitionError, match="its result"):
            signature.encode_result(CODEC, 1, RESULT)
        with pytest.raises(DefinitionError, match="its result"):
            signature.decode_result(CODEC, b"1", RESULT)
        with pytest.raises(DefinitionError, match="its result"):
            decode(signature, b"{}")


def test_signature_of_a_union_that_json_cannot_tell_apart_advises_tags() -> None:
    signature = Signature(order_or_refund)
    with pytest.raises(DefinitionError, match=r"order_or_refund: the result.*union.*tag=True"):
        signature.encode_result(CODEC, Order(1), RESULT)

    def take(a: int, either: Order | Refund) -> None: ...

    with pytest.raises(DefinitionError, match=r"take: parameter 'either'.*union.*tag=True"):
        encode(Signature(take), 1, Order(1))


def test_signature_of_a_wrapped_function_is_that_of_the_function() -> None:
    @functools.wraps(fulfil)
    def wrapper(*args: object, **kwargs: object) -> object: ...

    signature = Signature(wrapper)
    assert decode(signature, encode(signature, Order(1))) == ((Order(1), 1), {"label": None})


def test_signature_serves_several_codecs() -> None:
    class Shouting(JsonCodec):
        def encode(self, value: object) -> bytes:
            return b" " + super().encode(value)

    loud = Shouting()
    for _ in range(2):
        assert FULFIL.encode_result(CODEC, Order(1), RESULT)[0] == b'{"id":1,"total":0.0}'
        assert FULFIL.encode_result(loud, Order(1), RESULT)[0] == b' {"id":1,"total":0.0}'
    for _ in range(50):
        assert FULFIL.decode_result(JsonCodec(), b'{"id":1}', RESULT) == Order(1)
    assert len(FULFIL._kept) <= 8


def test_signature_of_never_can_be_used() -> None:
    assert result(never, None) is None
