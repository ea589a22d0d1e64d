from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from romancy.core.tokens import Token, decode_token, encode_token

numbers = st.integers(0, 2**62)


@given(st.text(max_size=255), numbers, numbers, st.text(), numbers)
def test_token_comes_back_from_text_that_may_stand_in_a_url(
    instance_id: str, execution_id: int, run: int, activity_id: str, attempt: int
) -> None:
    token = Token(instance_id, execution_id, run, activity_id, attempt)
    text = encode_token(token)
    assert re.fullmatch(r"[A-Za-z0-9_-]+", text)
    assert decode_token(text) == token


@pytest.mark.parametrize("text", ["", "x", "e30", "bm9uc2Vuc2U", "ü", "a b", "WyJvbmUiLDFd"])
def test_text_that_is_no_token_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not a token of complete_later\(\)"):
        decode_token(text)


def test_token_with_something_missing_at_its_end_is_refused() -> None:
    text = encode_token(Token("order-1", 5, 0, "1:sign", 1))
    for length in range(len(text)):
        with pytest.raises(ValueError, match="is not a token"):
            decode_token(text[:length])


def test_long_nonsense_is_told_in_part() -> None:
    with pytest.raises(ValueError, match=r"^'x{99}… is not a token") as caught:
        decode_token("x" * 5_000)
    assert len(str(caught.value)) < 200
