"""The settings of a Login for servers that break the grammar, refuse a mechanism, or refuse a channel binding."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from mailauth import Tls, sasl, smtp
from mailauth_io import client
from mailauth_io.adapters import AsyncServerConnection
from tests.io import loops
from tests.io.adapters.test_channel_binding import DECOY, PLUS, binding_context, submission
from tests.io.client.peers import Peer, ehlo, pop3_server, smtp_server
from tests.io.server_support import TIMEOUT, Run, on_both_loops
from tests.io.tls import client_context

NAME, PASSWORD = "YWxpY2U=", "d29uZGVybGFuZA=="
RESPONSE = "AGFsaWNlAHdvbmRlcmxhbmQ="


async def log_in_to(peer: Peer, protocol: str, login: client.Login) -> None:
    connect: Any = client.smtp_client if protocol == "smtp" else client.pop3_client
    async with connect(host="127.0.0.1", port=peer.port, tls="none", login=login, timeout=TIMEOUT):
        pass


def logins(peer: Peer) -> list[str]:
    """Return the lines of the login."""
    return [line for line in peer.heard if line.partition(" ")[0] not in ("EHLO", "CAPA", "QUIT")]


@on_both_loops
def test_initial_response_is_held_back_and_any_prompt_starts_it(run: Run) -> None:
    login = client.Login("alice", "wonderland", mechanisms=("PLAIN",), initial_response=False)
    with smtp_server({"AUTH": b"334 go ahead\r\n", RESPONSE: b"235 ok\r\n"}) as peer:
        run(lambda: log_in_to(peer, "smtp", login))
    assert logins(peer) == ["AUTH PLAIN", RESPONSE]


@on_both_loops
def test_mechanism_that_the_server_does_not_list_is_assumed(run: Run) -> None:
    login = client.Login("alice", "wonderland", mechanisms=("LOGIN", "PLAIN"), assume={"plain"})
    for protocol, serve in (
        ("smtp", smtp_server({"EHLO": ehlo()})),
        ("pop3", pop3_server({"CAPA": b"-ERR what?\r\n"})),
    ):
        with serve as peer:
            run(partial(log_in_to, peer, protocol, login))
        assert logins(peer) == [f"AUTH PLAIN {RESPONSE}"]


@on_both_loops
def test_weaker_mechanism_is_tried_after_a_refusal(run: Run) -> None:
    script = {
        "EHLO": ehlo("AUTH PLAIN LOGIN"), "AUTH 1": b"535 no\r\n", "AUTH 2": b"334 Username:\r\n",
        NAME: b"334 Password:\r\n", PASSWORD: b"235 ok\r\n",
    }  # fmt: skip
    with smtp_server(script) as peer:
        run(lambda: log_in_to(peer, "smtp", client.Login("alice", "wonderland", retry_weaker=True)))
    assert logins(peer) == [f"AUTH PLAIN {RESPONSE}", "AUTH LOGIN", NAME, PASSWORD]


@on_both_loops
def test_error_lists_every_refusal(run: Run) -> None:
    script = {"EHLO": ehlo("AUTH PLAIN LOGIN"), "AUTH 1": b"535 5.7.8 no\r\n", "AUTH 2": b"504 gone\r\n"}
    with smtp_server(script) as peer, pytest.raises(client.AuthenticationFailed) as failed:
        run(lambda: log_in_to(peer, "smtp", client.Login("alice", "wonderland", retry_weaker=True)))
    text = "the server rejected the login of alice: 504 gone (LOGIN; before, PLAIN: 535 5.7.8 no)"
    assert str(failed.value) == text
    with smtp_server(script) as peer, pytest.raises(client.AuthenticationFailed, match=r"alice: 535 5\.7\.8 no$"):
        run(lambda: log_in_to(peer, "smtp", client.Login("alice", "wonderland")))
    assert len(logins(peer)) == 1


@on_both_loops
def test_true_reason_for_a_password_that_user_cannot_carry(run: Run) -> None:
    with pop3_server({}) as peer, pytest.raises(client.NotSupported, match=r"USER cannot carry .* not ASCII"):
        run(lambda: log_in_to(peer, "pop3", client.Login("alice", "gr\xfcn")))
    assert logins(peer) == []


class UniqueOnly:
    """A server that supports ``tls-unique`` alone, as Cyrus SASL does."""

    mechanisms = sasl.Mechanisms(
        {
            **PLUS.factories,
            "SCRAM-SHA-256-PLUS": lambda context: sasl.ScramSha256PlusServer(
                nonce=context.nonce,
                tls=context.tls,
                decoy=DECOY,
                channel_bindings={"tls-unique": context.channel_bindings["tls-unique"]},
                plus_offered=True,
            ),
        }
    )


async def submit_to(mechanisms: sasl.Mechanisms, login: client.Login) -> list[str]:
    """Log in to a server with *mechanisms*; return those that were started there."""
    started: list[str] = []

    async def session(connection: AsyncServerConnection[smtp.ServerEvent]) -> None:
        class Noting:
            def __getattr__(self, name: str) -> Any:
                return getattr(connection, name)

            def __aiter__(self) -> Any:
                return self

            async def __anext__(self) -> smtp.ServerEvent:
                event = await anext(connection)
                if isinstance(event, sasl.AuthenticationStarted):
                    started.append(event.mechanism)
                return event

        noting: Any = Noting()
        await submission(noting)

    settings = smtp.ServerSettings(mechanisms=mechanisms, scram_decoy=DECOY)
    async with (
        loops.current().adapter.serve_smtp(
            session, settings, ssl_context=binding_context(), implicit_tls=True
        ) as listener,
        client.smtp_client(
            host="127.0.0.1", port=listener.port, ssl_context=client_context(), login=login, timeout=TIMEOUT
        ),
    ):
        return started


@on_both_loops
def test_login_at_a_server_with_tls_unique_alone(run: Run) -> None:
    plus, bare = "SCRAM-SHA-256-PLUS", "SCRAM-SHA-256"
    login = client.Login("alice", "wonderland")
    assert run(lambda: submit_to(UniqueOnly.mechanisms, login)) == [plus, plus]
    without = client.Login("alice", "wonderland", channel_binding="none")
    assert run(lambda: submit_to(UniqueOnly.mechanisms, without)) == [bare]
    by_name = client.Login("alice", "wonderland", mechanisms=(bare,))
    assert run(lambda: submit_to(UniqueOnly.mechanisms, by_name)) == [bare]


@on_both_loops
def test_error_names_the_refused_bindings_and_what_to_set(run: Run) -> None:
    text = (
        "it refused SCRAM-SHA-256-PLUS with the channel binding tls-server-end-point and tls-unique: if the password is"
        ' right, use channel_binding="none"'
    )
    for retry_weaker in (False, True):
        login = client.Login("alice", "wrong", mechanisms=("SCRAM-SHA-256-PLUS", "PLAIN"), retry_weaker=retry_weaker)
        with pytest.raises(client.AuthenticationFailed) as failed:
            run(partial(submit_to, PLUS, login))
        assert text in str(failed.value)


@on_both_loops
def test_required_channel_binding_that_is_not_possible_is_not_supported(run: Run) -> None:
    login = client.Login("alice", "wonderland", channel_binding="require")
    with smtp_server({}) as peer, pytest.raises(client.NotSupported, match="needs TLS with channel binding data"):
        run(lambda: log_in_to(peer, "smtp", login))
    with pytest.raises(client.NotSupported, match="does not offer SCRAM-SHA-256-PLUS"):
        run(lambda: submit_to(PLUS.only("SCRAM-SHA-256"), login))


@pytest.mark.parametrize(
    ("fields", "error", "text"),
    [
        ({"channel_binding": "tls-unique"}, ValueError, "require.*prefer.*none"),
        ({"channel_binding": "require", "mechanisms": ("PLAIN",)}, ValueError, "needs a password and a mechanism"),
        ({"initial_response": 1}, TypeError, "initial_response must be True or False"),
        ({"retry_weaker": "yes"}, TypeError, "retry_weaker must be True or False"),
        ({"assume": "PLAIN"}, TypeError, "assume must be a set of names"),
        ({"assume": {1}}, TypeError, "assume must be a set of names"),
        ({"assume": {"PLANE"}}, ValueError, "no mechanism of a password is called 'PLANE'"),
    ],
)
def test_invalid_options_are_errors(fields: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        client.Login("alice", "wonderland", **fields)


def test_password_that_no_chosen_mechanism_can_carry_is_an_error() -> None:
    for mechanisms in (("SCRAM-SHA-256", "SCRAM-SHA-1"), ("APOP",)):
        with pytest.raises(ValueError, match=f"{', '.join(mechanisms)} cannot carry this password"):
            client.Login("alice", "\U0001f642", mechanisms=mechanisms)
    names = [each.name for each in client.Login("alice", "\U0001f642").client_mechanisms(Tls(version="TLSv1.3"))]
    assert names == ["CRAM-MD5", "PLAIN", "LOGIN", "USER"]
