"""The smuggling matrix: every five bytes out of CR, LF, dot and NUL inside content, whole and at every split."""

from __future__ import annotations

import re
from itertools import product

import pytest

from tests.smtp.drive import ready, without_cuts

BEGIN = b"MAIL FROM:<>\r\nRCPT TO:<a@b>\r\nDATA\r\n"
END = b"\r\n.\r\n"
REST = b"MAIL FROM:<evil@x>" + END + b"NOOP\r\n"


@pytest.mark.parametrize("first", list(product(b"\r\n.\0", repeat=2)), ids=lambda data: bytes(data).hex())
def test_only_crlf_dot_crlf_ends_content_among_all_five_byte_sequences(first: tuple[int, int]) -> None:
    """RFC 5321 section 4.1.1.4: CVE-2023-51764 and similar, with dot-stuffing (section 4.5.2) and refusal (2.3.8)."""
    for data in product(b"\r\n.\0", repeat=3):
        middle = bytes((*first, *data))
        cuts = [(middle,), tuple(bytes([octet]) for octet in middle)]
        cuts += [(middle[:place], middle[place:]) for place in range(1, len(middle))]
        told = []
        for pieces in cuts:
            session = ready(BEGIN + b"a").receive(*pieces, REST)
            told.append((without_cuts(session.events), session.codes[3:]))
        assert all(one == told[0] for one in told)
        content = b"a" + middle + b"MAIL FROM:<evil@x>\r\n"
        if middle == END:
            assert told[0][1] == [250, 250, 500, 250]  # MAIL is a command, the single dot is not
            continue
        dirty = re.search(rb"\r(?!\n)|(?<!\r)\n|\0", content) is not None
        assert told[0][1] == [554 if dirty else 250, 250]
        unstuffed = content.replace(b"\r\n.", b"\r\n")
        fault = re.search(rb"\r[^\n]|(?<!\r)\n|\0", unstuffed)
        assert session.content == (unstuffed if fault is None else unstuffed[: fault.end() - 1])
