"""What the next hop says on an idle connection is never the reply to a later command."""

from __future__ import annotations

import pytest

from tests.io.next_hops import BY_STARTTLS, FAR, IN_CLEAR, INSIDE_TLS, Double, logged_in, relay_to, relaying, send
from tests.io.scripted_hop import ScriptedHop
from tests.io.server_support import Run, Served, on_both_loops

pytestmark = on_both_loops

MESSAGE = ["EHLO", "MAIL", "RCPT", "DATA"]
SAID = [
    b"421 4.4.2 far.test idle for too long\r\n",
    b"451 4.7.0 Timeout waiting for client input\r\n",
    b"221 2.0.0 bye\r\n",
    b"250 2.0.0 ok\r\n",
    b"550 5.0.0 go away\r\n",
    b"421-",
    b"\r\n",
    b"",
]
"""Seen on idle connections (Exchange says 451), or worse.  Without the check each would be the reply to MAIL."""

what_is_said = pytest.mark.parametrize("said", SAID)


@pytest.mark.parametrize("close", [True, False], ids=["closes", "stays"])
@what_is_said
def test_words_on_an_idle_connection_cause_a_new_connection(
    run: Run, said: bytes, close: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """The client does not notice: nothing of its transaction was lost."""
    hop = ScriptedHop()

    def client(served: Served) -> None:
        with logged_in(served) as smtp:
            for _ in range(2):
                assert [reply[:3] for reply in send(smtp, FAR)] == ["250", "250"]
                hop.say(said, close=close)

    with hop.listening():
        run(lambda: relay_to(hop.port, client, **IN_CLEAR))
    silent = not said and not close
    assert len(hop.messages) == 2
    assert len(hop.clear) == (1 if silent else 2)
    assert hop.commands()[0][:4] == MESSAGE
    if not silent:
        assert hop.commands()[1][:4] == MESSAGE
        assert hop.commands()[0] == MESSAGE  # not even QUIT
    assert "next hop failed" not in caplog.text


@pytest.mark.parametrize("said", [said for said in SAID if said.endswith(b"\r\n") and said != b"\r\n"])
def test_words_that_arrive_with_the_last_reply_cause_a_new_connection(run: Run, said: bytes) -> None:
    hop = ScriptedHop(after_message=said)

    def client(served: Served) -> None:
        with logged_in(served) as smtp:
            for _ in range(2):
                assert [reply[:3] for reply in send(smtp, FAR)] == ["250", "250"]

    with hop.listening():
        run(lambda: relay_to(hop.port, client, **IN_CLEAR))
    assert hop.commands()[0] == MESSAGE
    assert hop.commands()[1][:4] == MESSAGE


@what_is_said
def test_words_between_recipients_give_451_and_no_message(run: Run, said: bytes) -> None:
    """The transaction cannot be moved to another connection: its recipients were accepted on this one."""
    hop = ScriptedHop()

    def client(served: Served) -> None:
        with logged_in(served) as smtp:
            smtp.mail("alice@example.test")
            assert smtp.rcpt(FAR)[0] == 250
            hop.say(said)
            expected = 451 if said else 250
            assert smtp.rcpt("bill@far.test")[0] == expected
            assert smtp.docmd("DATA")[0] == (451 if said else 354)
            if not said:
                smtp.send(b".\r\n")
                assert smtp.getreply()[0] == 250
                return
            smtp.rset()
            assert [reply[:3] for reply in send(smtp, FAR)] == ["250", "250"]

    with hop.listening():
        run(lambda: relay_to(hop.port, client, **IN_CLEAR))
    assert len(hop.messages) == 1
    assert len(hop.clear) == (2 if said else 1)


@pytest.mark.parametrize("said", [said for said in SAID if said])
def test_words_before_data_give_451_and_no_message(run: Run, said: bytes) -> None:
    """The client sends the content for minutes, while the next hop waits for DATA."""
    hop = ScriptedHop()

    def client(served: Served) -> None:
        with logged_in(served) as smtp:
            smtp.mail("alice@example.test")
            assert smtp.rcpt(FAR)[0] == 250
            assert smtp.docmd("DATA")[0] == 354
            hop.say(said)
            smtp.send(b"Subject: x\r\n\r\n.\r\n")
            assert smtp.getreply()[0] == 451

    with hop.listening():
        run(lambda: relay_to(hop.port, client, **IN_CLEAR))
    assert hop.messages == []
    assert hop.commands() == [["EHLO", "MAIL", "RCPT"]]


def test_only_one_new_connection_is_made_for_a_command(run: Run) -> None:
    hop = ScriptedHop()

    def client(served: Served) -> None:
        with logged_in(served) as smtp:
            send(smtp, FAR)
            hop.replies["MAIL"] = b""
            hop.say(b"421 4.4.2 idle\r\n", close=True)
            assert send(smtp, FAR)[0].startswith("451 4.4.1")
            del hop.replies["MAIL"]
            smtp.rset()
            assert send(smtp, FAR)[0].startswith("250")

    with hop.listening():
        run(lambda: relay_to(hop.port, client, **IN_CLEAR))
    assert [verbs[:2] for verbs in hop.commands()] == [["EHLO", "MAIL"]] * 3


@pytest.mark.parametrize("tls", [BY_STARTTLS, INSIDE_TLS], ids=["STARTTLS", "implicit"])
def test_tls_session_tickets_do_not_cause_a_new_connection(run: Run, tls: dict[str, object]) -> None:
    """A server sends them after the handshake (RFC 8446 section 4.6.1).  They are no words."""
    double = Double()

    def client(served: Served) -> None:
        with logged_in(served) as smtp:
            for _ in range(3):
                assert send(smtp, FAR, "bill@far.test")[-1].startswith("250")

    relaying(run, double, client, **tls)
    assert double.connections == 1


@pytest.mark.parametrize("reply", [b"", b"221 2.0.0 bye\r\n", b"500 what?\r\n", b"nonsense\r\n"])
def test_close_after_quit_is_no_failure_whatever_the_reply(
    run: Run, reply: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    hop = ScriptedHop(replies={"QUIT": reply})

    def client(served: Served) -> None:
        with logged_in(served) as smtp:
            assert send(smtp, FAR)[-1].startswith("250")

    with hop.listening():
        run(lambda: relay_to(hop.port, client, **IN_CLEAR))
    assert hop.commands() == [[*MESSAGE, "QUIT"]]
    assert [record for record in caplog.records if record.levelno >= 30] == []
