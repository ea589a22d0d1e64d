"""Signatures of functions whose annotations are objects: no `from __future__ import annotations` here."""

from dataclasses import dataclass
from typing import Any, Optional

import msgspec
import pytest

from romancy.core.codec import JsonCodec
from romancy.core.signatures import Signature
from romancy.errors import CodecError, DefinitionError

CODEC = JsonCodec()


@dataclass
class Order:
    id: int


def plain(order: Order, limit: Optional[int] = None, *rest: "Later", **extra: list["Later"]) -> "Later":  # noqa: UP045
    raise NotImplementedError


EAGER = Signature(plain)


class Later(msgspec.Struct):
    x: int


def test_signature_of_objects_and_quoted_names_decodes_both() -> None:
    data = EAGER.bind_encode(CODEC, (Order(1), 2, Later(3)), {"a": [Later(4)]}, "input")
    assert EAGER.decode_arguments(CODEC, data, "input") == ((Order(1), 2, Later(3)), {"a": [Later(4)]})
    assert EAGER.decode_result(CODEC, b'{"x":5}', "result") == Later(5)


def test_signature_of_local_classes_needs_no_namespace() -> None:
    @dataclass
    class Local:
        x: int

    def give(value: Local) -> Local:
        return value

    signature = Signature(give)
    data = signature.bind_encode(CODEC, (Local(1),), {}, "input")
    assert signature.decode_arguments(CODEC, data, "input") == ((Local(1),), {})
    assert signature.encode_result(CODEC, Local(2), "result") == (b'{"x":2}', Local(2))


def test_signature_of_a_lambda_is_untyped() -> None:
    signature = Signature(lambda a, b=2: (a, b))  # pyright: ignore[reportUnknownArgumentType, reportUnknownLambdaType]
    data = signature.bind_encode(CODEC, ({"x": (1,)},), {}, "input")
    assert signature.decode_arguments(CODEC, data, "input") == (({"x": [1]}, 2), {})
    assert signature.encode_result(CODEC, Order(1), "result") == (b'{"id":1}', {"id": 1})


def test_signature_of_any_takes_any() -> None:
    def give(value: Any) -> Any:
        return value

    assert Signature(give).encode_result(CODEC, Order(1), "result") == (b'{"id":1}', {"id": 1})


def test_signature_refuses_what_has_none() -> None:
    with pytest.raises(DefinitionError, match="42"):
        Signature(42)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]


def test_signature_refuses_an_annotation_that_is_no_type() -> None:
    def give(value: 42) -> None:  # type: ignore[valid-type] # pyright: ignore[reportGeneralTypeIssues, reportUnknownParameterType]
        ...

    with pytest.raises(DefinitionError, match=r"give.*parameter 'value'.*42"):
        Signature(give).bind_encode(CODEC, (1,), {}, "input")  # pyright: ignore[reportUnknownArgumentType]


def test_signature_still_checks_beside_a_quoted_name() -> None:
    with pytest.raises(CodecError, match=r"`\$\.rest\[0\]\.x`"):
        EAGER.bind_encode(CODEC, (Order(1), 2, Later("3")), {}, "input")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
