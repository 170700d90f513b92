"""The examples of the RFCs as transcripts: the client sends them word for word, the server replies with their codes."""

from __future__ import annotations

import pytest

from mailauth import Command, MessageChunk, Tls, sasl, smtp
from tests.smtp.drive import CRAM, Session, call, serve


def blocks(transcript: str) -> list[tuple[str, list[str]]]:
    """Return the runs of lines of one side: ``C`` or ``S``."""
    runs: list[tuple[str, list[str]]] = []
    for line in transcript.strip().splitlines():
        speaker, _, text = line.strip().partition(": ")
        if not runs or runs[-1][0] != speaker:
            runs.append((speaker, []))
        runs[-1][1].append(text)
    return runs


def as_data(lines: list[str]) -> bytes:
    return "".join(f"{line}\r\n" for line in lines).encode("ascii")


def run_client(session: Session, transcript: str, *commands: object) -> Session:
    """Send *commands*, each when the client is next in the transcript, and compare every byte."""
    queue = list(commands)
    for speaker, lines in blocks(transcript):
        if speaker == "S":
            session.receive(as_data(lines))
            continue
        expected = as_data(lines)
        while len(session.data) < len(expected) and queue:
            command = queue.pop(0)
            if isinstance(command, list):
                for one in command:
                    session.client.send(one)
                session.pull()
            elif isinstance(command, Command):
                session.send(command)
            else:
                assert isinstance(command, sasl.PlainClient | sasl.CramMd5Client)
                session.client.authenticate(command)
                session.pull()
        assert session.data == expected
        session.sends.clear()
    assert not queue
    return session


def run_server(session: Session, transcript: str) -> Session:
    """Send what the client sends, and compare the codes of the replies."""
    for speaker, lines in blocks(transcript):
        if speaker == "C":
            session.receive(as_data(lines))
            continue
        assert session.codes == [int(line[:3]) for line in lines if line[3:4] != "-"]
        session.sends.clear()
    return session


def box(text: str) -> smtp.Mailbox:
    return smtp.Mailbox.parse(text)


TYPICAL = """
S: 220 foo.com Simple Mail Transfer Service Ready
C: EHLO bar.com
S: 250-foo.com greets bar.com
S: 250-8BITMIME
S: 250-SIZE
S: 250-DSN
S: 250 HELP
C: MAIL FROM:<Smith@bar.com>
S: 250 OK
C: RCPT TO:<Jones@foo.com>
S: 250 OK
C: RCPT TO:<Green@foo.com>
S: 550 No such user here
C: RCPT TO:<Brown@foo.com>
S: 250 OK
C: DATA
S: 354 Start mail input; end with <CRLF>.<CRLF>
C: Blah blah blah...
C: ....etc. etc. etc.
C: .
S: 250 OK
C: QUIT
S: 221 foo.com Service closing transmission channel
"""
CONTENT = b"Blah blah blah...\r\n...etc. etc. etc.\r\n"


def test_a_typical_transaction_from_the_client() -> None:
    """RFC 5321 appendix D.1; the second line of the content is stuffed, which the RFC does not show."""
    session = run_client(
        call(),
        TYPICAL,
        smtp.Hello(domain="bar.com"),
        smtp.Mail(reverse_path=box("Smith@bar.com")),
        smtp.Rcpt(forward_path=box("Jones@foo.com")),
        smtp.Rcpt(forward_path=box("Green@foo.com")),
        smtp.Rcpt(forward_path=box("Brown@foo.com")),
        smtp.Data(),
        MessageChunk(data=CONTENT),
        smtp.MessageComplete(),
        smtp.Quit(),
    )
    assert [event.reply.code for event in session.of(smtp.ReplyReceived)] == [
        220,
        250,
        250,
        250,
        550,
        250,
        354,
        250,
        221,
    ]
    assert session.client.extensions == {"8BITMIME": "", "SIZE": "", "DSN": "", "HELP": ""}
    assert session.closed is not None


def test_a_typical_transaction_from_the_server() -> None:
    """RFC 5321 appendix D.1."""

    def rcpt(question: smtp.Rcpt) -> smtp.Reply:
        green = question.forward_path.local_part == "Green"
        return smtp.Reply(550, "", "No such user here") if green else smtp.Reply(250, "", "OK")

    session = run_server(serve(settings=smtp.ServerSettings(host_name="foo.com"), answers={smtp.Rcpt: rcpt}), TYPICAL)
    assert session.content == CONTENT
    assert session.of(smtp.MessageComplete) == [
        smtp.MessageComplete(recipients=(box("Jones@foo.com"), box("Brown@foo.com")))
    ]


def test_an_aborted_transaction() -> None:
    """RFC 5321 appendix D.2."""
    transcript = """
        S: 220 foo.com Simple Mail Transfer Service Ready
        C: EHLO bar.com
        S: 250-foo.com greets bar.com
        S: 250 HELP
        C: MAIL FROM:<Smith@bar.com>
        S: 250 OK
        C: RCPT TO:<Jones@foo.com>
        S: 250 OK
        C: RCPT TO:<Green@foo.com>
        S: 550 No such user here
        C: RSET
        S: 250 OK
        C: QUIT
        S: 221 foo.com Service closing transmission channel
    """
    run_client(
        call(),
        transcript,
        smtp.Hello(domain="bar.com"),
        smtp.Mail(reverse_path=box("Smith@bar.com")),
        smtp.Rcpt(forward_path=box("Jones@foo.com")),
        smtp.Rcpt(forward_path=box("Green@foo.com")),
        smtp.Rset(),
        smtp.Quit(),
    )
    verdicts = [smtp.Reply(250, "", "OK"), smtp.Reply(550, "", "No such user here")]
    run_server(serve(answers={smtp.Rcpt: verdicts}), transcript)


PIPELINED = """
S: 220 Innosoft.com SMTP service ready
C: EHLO dbc.mtview.ca.us
S: 250-Innosoft.com
S: 250 PIPELINING
C: MAIL FROM:<mrose@dbc.mtview.ca.us>
C: RCPT TO:<ned@innosoft.com>
C: RCPT TO:<dan@innosoft.com>
C: RCPT TO:<kvc@innosoft.com>
C: DATA
S: 250 sender <mrose@dbc.mtview.ca.us> OK
S: 250 recipient <ned@innosoft.com> OK
S: 250 recipient <dan@innosoft.com> OK
S: 250 recipient <kvc@innosoft.com> OK
S: 354 enter mail, end with line containing only "."
C: text
C: .
C: QUIT
S: 250 message sent
S: 221 goodbye
"""


def test_a_pipelined_transaction() -> None:
    """RFC 2920 section 4, the second example: both groups are sent whole, QUIT after the final dot."""
    names = ("ned@innosoft.com", "dan@innosoft.com", "kvc@innosoft.com")
    group = [
        smtp.Mail(reverse_path=box("mrose@dbc.mtview.ca.us")),
        *(smtp.Rcpt(forward_path=box(name)) for name in names),
        smtp.Data(),
    ]
    end = [MessageChunk(data=b"text\r\n"), smtp.MessageComplete(), smtp.Quit()]
    session = run_client(call(), PIPELINED, smtp.Hello(domain="dbc.mtview.ca.us"), group, end)
    assert session.closed is not None
    run_server(serve(), PIPELINED)


def test_a_pipelined_transaction_without_recipients() -> None:
    """RFC 2920 section 4, the third example: DATA is refused, because no recipient was accepted."""
    transcript = """
        S: 220 Innosoft.com SMTP service ready
        C: EHLO dbc.mtview.ca.us
        S: 250-Innosoft.com
        S: 250 PIPELINING
        C: MAIL FROM:<mrose@dbc.mtview.ca.us>
        C: RCPT TO:<nsb@thumper.bellcore.com>
        C: RCPT TO:<galvin@tis.com>
        C: DATA
        S: 250 sender <mrose@dbc.mtview.ca.us> OK
        S: 550 remote mail to <nsb@thumper.bellore.com> not allowed
        S: 550 remote mail to <galvin@tis.com> not allowed
        S: 554 no valid recipients given
        C: QUIT
        S: 221 goodbye
    """
    group = [
        smtp.Mail(reverse_path=box("mrose@dbc.mtview.ca.us")),
        smtp.Rcpt(forward_path=box("nsb@thumper.bellcore.com")),
        smtp.Rcpt(forward_path=box("galvin@tis.com")),
        smtp.Data(),
    ]
    run_client(call(), transcript, smtp.Hello(domain="dbc.mtview.ca.us"), group, smtp.Quit())
    # Our server replies 503, which RFC 5321 section 4.1.1.4 also allows; the example has 554.
    refusal = smtp.Reply(550, "", "not allowed")
    run_server(serve(answers={smtp.Rcpt: refusal}), transcript.replace("554 no valid", "503 no valid"))


STARTTLS = """
S: 220 mail.imc.org SMTP service ready
C: EHLO mail.example.com
S: 250-mail.imc.org offers a warm hug of welcome
S: 250-8BITMIME
S: 250-STARTTLS
S: 250 DSN
C: STARTTLS
S: 220 Go ahead
C: EHLO mail.example.com
S: 250-mail.imc.org touches your hand gently for a moment
S: 250-8BITMIME
S: 250 DSN
"""


def test_starttls_transcript() -> None:
    """RFC 3207 section 5."""
    hello = smtp.Hello(domain="mail.example.com")
    session = run_client(call(), STARTTLS, hello, smtp.StartTls(), hello)
    assert session.client.extensions == {"8BITMIME": "", "DSN": ""}
    assert session.client.tls is not None
    served = run_server(serve(), STARTTLS)
    assert served.server.tls is not None


def test_plain_with_an_initial_response() -> None:
    """RFC 4954 section 4.1, the first example; GSSAPI and DIGEST-MD5 are left out."""
    transcript = """
        S: 220-smtp.example.com ESMTP Server
        S: 220 at your service
        C: EHLO client.example.com
        S: 250-smtp.example.com Hello client.example.com
        S: 250-AUTH GSSAPI DIGEST-MD5
        S: 250-ENHANCEDSTATUSCODES
        S: 250 STARTTLS
        C: STARTTLS
        S: 220 Ready to start TLS
        C: EHLO client.example.com
        S: 250-smtp.example.com Hello client.example.com
        S: 250 AUTH GSSAPI DIGEST-MD5 PLAIN
        C: AUTH PLAIN dGVzdAB0ZXN0ADEyMzQ=
        S: 235 2.7.0 Authentication successful
    """
    hello = smtp.Hello(domain="client.example.com")
    plain = sasl.PlainClient(authentication_identity="test", password=b"1234", authorization_identity="test")
    session = run_client(call(), transcript, hello, smtp.StartTls(), hello, plain)
    assert session.of(sasl.Authenticated) == [sasl.Authenticated(mechanism="PLAIN")]
    served = run_server(serve(settings=smtp.ServerSettings(starttls=True)), transcript)
    assert served.server.identity == "test"


def test_plain_without_an_initial_response() -> None:
    """RFC 4954 section 4.1, the third example: one space follows the 334."""
    session = serve(b"EHLO client.example.com\r\n").forget()
    session.receive(b"AUTH PLAIN\r\n")
    assert session.data == b"334 \r\n"
    session.receive(b"dGVzdAB0ZXN0ADEyMzQ=\r\n")
    assert session.codes == [334, 235]


def test_cancelled_login_is_501() -> None:
    """RFC 4954 section 4: ``*`` is answered by 501."""
    session = serve(b"EHLO client.example.com\r\n").forget()
    run_server(session, "C: AUTH PLAIN\nS: 334 \nC: *\nS: 501 Authentication aborted\nC: NOOP\nS: 250 OK")
    assert session.of(sasl.AuthenticationFailed)[0].reason is sasl.Fault.CANCELLED


CRAM_MD5 = """
S: 220 server.example
C: EHLO client.example
S: 250-server.example
S: 250 AUTH CRAM-MD5
C: AUTH CRAM-MD5
S: 334 PDE4OTYuNjk3MTcwOTUyQHBvc3RvZmZpY2UucmVzdG9uLm1jaS5uZXQ+
C: dGltIGI5MTNhNjAyYzdlZGE3YTQ5NWI0ZTZlNzMzNGQzODkw
S: 235 ok
"""


@pytest.mark.skipif(not sasl.MD5_AVAILABLE, reason="this system has no MD5")
def test_cram_md5_transcript() -> None:
    """RFC 2195 section 2, with AUTH; a test mechanism provides the challenge of the RFC."""
    tim = sasl.CramMd5Client(authentication_identity="tim", password=b"tanstaaftanstaaf")
    run_client(call(), CRAM_MD5, smtp.Hello(domain="client.example"), tim)

    def fixed(context: sasl.Context) -> sasl.CramMd5Server:
        return sasl.CramMd5Server(challenge=CRAM.encode("ascii"), tls=context.tls)

    settings = smtp.ServerSettings(
        mechanisms=sasl.Mechanisms({"CRAM-MD5": fixed}), mechanisms_without_tls=frozenset({"CRAM-MD5"})
    )
    session = run_server(serve(settings=settings), CRAM_MD5)
    asked = serve(b"EHLO c\r\nAUTH CRAM-MD5\r\n", settings=settings)
    assert asked.lines[-1] == "334 PDE4OTYuNjk3MTcwOTUyQHBvc3RvZmZpY2UucmVzdG9uLm1jaS5uZXQ+"
    assert session.server.identity == "tim"


def test_challenges_differ_in_a_session_and_repeat_with_the_same_entropy() -> None:
    """RFC 2195 section 2: a challenge is never repeated; the same entropy gives the same session."""
    login = b"AUTH CRAM-MD5\r\n*\r\n"
    first, again = (serve(b"EHLO c\r\n", login, login).lines for _ in range(2))
    challenges = [line for line in first if line.startswith("334 ")]
    assert len(set(challenges)) == 2
    assert first == again


def test_a_session_inside_implicit_tls_offers_no_starttls() -> None:
    """RFC 8314 section 3.3: the adapter reports TLS at the start."""
    session = serve(b"EHLO c\r\n", settings=smtp.ServerSettings(starttls=True), tls=Tls(version="TLSv1.3"))
    assert not any("STARTTLS" in line for line in session.lines)
    assert any("AUTH PLAIN LOGIN" in line for line in session.lines)
