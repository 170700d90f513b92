"""The store for bearer tokens in docs/sasl.md works with the server, on both loops and by both protocols."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

import attrs

from mailauth import sasl
from mailauth_io import server
from tests.io.logins import Login, by_both_protocols, refused
from tests.io.server_support import Run, at_once, on_both_loops
from tests.io.tls import client_context, server_context

PAGE = (Path(__file__).parents[3] / "docs" / "sasl.md").read_text(encoding="utf-8")


def token_accounts() -> dict[str, Any]:
    """Run the program of the page, and return its names."""
    (program,) = re.findall(r"^```python\n(import ssl\n(?:(?!```).)*class TokenAccounts.*?)^```$", PAGE, re.M | re.S)
    names: dict[str, Any] = {}
    exec(program, names)
    return names


@on_both_loops
@by_both_protocols
def test_token_store_in_the_documentation_accepts_its_tokens_only(run: Run, login: Login) -> None:
    names = token_accounts()
    owners = {hashlib.sha256(token).digest(): name for token, name in ((b"one", "alice"), (b"two", "bob"))}
    config, kept = names["settings"](names["TokenAccounts"](owners), server_context())

    async def main() -> list[str]:
        ports = attrs.evolve(config, smtp=0, smtps=0, pop3=0, pop3s=0)
        async with server.serve(ports, kept, sleep=at_once) as running:
            return [
                await login(running, client_context(), mechanism, False)
                for mechanism in (
                    sasl.OauthBearerClient(token=b"one"),
                    sasl.Xoauth2Client(token=b"two", authorization_identity="bob"),
                    sasl.Xoauth2Client(token=b"two", authorization_identity="alice"),
                    sasl.OauthBearerClient(token=b"three"),
                    sasl.PlainClient(authentication_identity="alice", password=b"one"),
                )
            ]

    assert run(main) == ["ok", "ok", refused(login), refused(login), "not offered"]
