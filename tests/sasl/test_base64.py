"""Strict base64: one encoding for each value (RFC 4648 sections 3.3 and 3.5, RFC 4954 section 4)."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given, strategies as st

from mailauth.errors import Malformed
from mailauth.sasl import decode_base64, encode_base64


@given(st.binary(max_size=100))
def test_encoded_data_is_decoded_unchanged(data: bytes) -> None:
    assert encode_base64(data) == base64.b64encode(data)
    assert decode_base64(encode_base64(data)) == data


@pytest.mark.parametrize(
    "line",
    [
        b"dGlt ",
        b" dGlt",
        b"dG lt",
        b"dGlt\r\n",
        b"dGlt\0",
        b"dGl-",
        b"dGl_",
        b"dGk",
        b"dGk==",
        b"dGk=dGlt",
        b"dGlt=",
        b"=dGlt",
        b"====",
        b"=",
        b"d",
        b"dGl=",
        b"dGlt\xff",
    ],
)
def test_invalid_base64_is_rejected(line: bytes) -> None:
    """Spaces, invalid characters, missing, inner and extra padding, non-zero trailing bits."""
    with pytest.raises(Malformed):
        decode_base64(line)


@given(st.binary(max_size=12) | st.text("dGlt+/=", max_size=12).map(str.encode))
def test_accepted_base64_is_the_only_encoding_of_its_data(line: bytes) -> None:
    try:
        data = decode_base64(line)
    except Malformed:
        return
    assert encode_base64(data) == line
