"""A fuzzer for the machines, with and without strict syntax.

    python -m tests.soak.fuzz --seconds 900 --seed 1

Each input is a session of a real client or server with some changes: blanks, brackets, control characters, lines
that are repeated, moved or cut.  A finding is printed with its input, and the exit status is 1.  It is a finding if

* a server raises, or a client raises anything but RemoteProtocolError;
* the events differ if the same bytes arrive one by one;
* a command that strict syntax accepts is read in another way without it;
* a mailbox that a server has accepted is read in another way by a strict server to which it is relayed;
* content that is accepted has a bare CR, a bare LF or a NUL.
"""

from __future__ import annotations

import argparse
import random
import re
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from mailauth import (
    ACCEPT,
    BeginTls,
    Closed,
    Command,
    LocalProtocolError,
    MessageChunk,
    NeedData,
    Paused,
    Question,
    RemoteProtocolError,
    Send,
    Tls,
    pop3,
    sasl,
    smtp,
)

SMTP_LINES: Final = (
    b"EHLO [192.0.2.1]", b"HELO (none)", b"AUTH PLAIN AGFsaWNlAHNlY3JldA==", b"AUTH LOGIN", b"YWxpY2U=", b"c2VjcmV0",
    b"AUTH CRAM-MD5", b"MAIL FROM:<alice@example.org> SIZE=20 BODY=8BITMIME", b"MAIL FROM: <a..b@carrier.test>",
    b"MAIL FROM:bounce@mail_1.example.net", b'MAIL FROM:<"a b"@example.org> AUTH=<>', b"MAIL FROM:<>",
    b"MAIL FROM:<@relay.test:alice@example.org>", b"MAIL FROM:<j\xc3\xb6rg@example.org> SMTPUTF8",
    b"RCPT TO:<bob@example.org>", b"RCPT TO:<bob@example.org> NOTIFY=NEVER ORCPT=rfc822;bob@example.org",
    b"RCPT TO:<Postmaster>", b"RCPT TO:<" + b"x" * 80 + b"@example.org>", b"DATA", b"Subject: tea", b"", b"..", b".",
    b"BDAT 5", b"hello", b"BDAT 6 LAST", b"hello", b"RSET", b"NOOP  x", b"VRFY alice", b"HELP", b"QUIT",
)  # fmt: skip
POP3_LINES: Final = (
    b"CAPA", b"UTF8", b"USER alice", b"PASS secret", b"AUTH PLAIN AGFsaWNlAHNlY3JldA==", b"AUTH", b"AUTH LOGIN",
    b"YWxpY2U=", b"c2VjcmV0", b"APOP alice c4c9334bac560ecc979e58001b3e22fb", b"STAT", b"LIST", b"LIST 1", b"UIDL 2",
    b"TOP 1  0", b"RETR 1", b"RETR 2", b"DELE 1", b"RSET", b"NOOP", b"QUIT",
)  # fmt: skip
SMTP_REPLIES: Final = (
    b"220 mx.example ESMTP", b"250-mx.example\r\n250-PIPELINING\r\n250-AUTH PLAIN LOGIN\r\n250 SIZE 1000", b"250 ok",
    b"250 2.1.5 ok", b"354 go ahead", b"550-5.1.1 no\r\n550 5.1.1 user", b"571 5.7.1 blocked", b"498 later", b"421 bye",
    b"", b"334 ", b"334 Username:", b"235 2.7.0 ok", b"535 5.7.8 no", b"221 bye", b"451 timeout",
)  # fmt: skip
POP3_REPLIES: Final = (
    b"+OK ready", b"+OK\r\nUSER\r\nSASL PLAIN\r\nSASL\tLOGIN\r\n.", b"+OK", b"+OK 2 320", b"-ERR [AUTH] no", b"+ ", b"",
    b"+OK\r\n1 5\r\n2 7\r\n.", b"+OK\r\nSubject: a\r\n\r\n..b\r\n.", b"-ERR [IN-USE] locked", b"+ Username:",
)  # fmt: skip

ENDS: Final = (b"\r\n",) * 60 + (b" \r\n", b"\t\r\n", b"  \r\n", b"\n", b"\r", b"\r\r\n", b"\n\r\n", b"\0\r\n")
SNIPPETS: Final = (
    b" ", b"  ", b"\t", b"\0", b"\r", b"\n", b"<", b">", b'"', b"\\", b",", b":", b"@", b".", b"..", b"-", b"_", b"=",
    b"*", b"\xa0", b"\xc2\xa0", b"\xe2\x80\xa8", b"\xff", b"\x7f", b"\x1b", b"()", b"[", b"]", b"%", b";", b"+",
)  # fmt: skip
_BARE: Final = re.compile(rb"\r(?!\n)|(?<!\r)\n|\0")

STRICT_SMTP: Final = smtp.ServerSettings(
    strict_syntax=True, smtputf8=True, chunking=True, dsn=True,
    mechanisms_without_tls=frozenset(sasl.DEFAULT_MECHANISMS.names),
)  # fmt: skip
TOLERANT_SMTP: Final = smtp.ServerSettings(
    smtputf8=True, chunking=True, dsn=True, mechanisms_without_tls=frozenset(sasl.DEFAULT_MECHANISMS.names)
)
STRICT_POP3: Final = pop3.ServerSettings(
    strict_syntax=True, mechanisms_without_tls=frozenset(pop3.DEFAULT_MECHANISMS.names)
)
TOLERANT_POP3: Final = pop3.ServerSettings(
    refuse_utf8_headers=True, mechanisms_without_tls=frozenset(pop3.DEFAULT_MECHANISMS.names)
)
MESSAGES: Final = (b"Subject: a\r\n\r\n.b\r\n", b"Subject: gr\xc3\xbcn\r\n\r\n")
MAILDROP: Final = pop3.Maildrop(
    messages=tuple(pop3.Message(size=len(each), unique_id=str(number)) for number, each in enumerate(MESSAGES))
)


class Finding(Exception):
    """A machine broke a rule; the text names it."""


def answer(machine: Any, question: Question[Any]) -> None:
    """Accept *question* as a friendly application does."""
    match question:
        case pop3.OpenMaildrop():
            machine.answer(question, MAILDROP)
        case pop3.Retrieve(number=number):
            machine.answer(question, pop3.Content(data=MESSAGES[number - 1], last=True))
        case sasl.FetchSecret():
            machine.answer(question, b"secret")
        case smtp.VerdictQuestion() | smtp.MessageComplete() | sasl.CheckPassword() | pop3.Connected() | pop3.Update():
            machine.answer(question, ACCEPT)
        case smtp.Connected():
            machine.answer(question, ACCEPT)
        case _:
            machine.decline(question)


def pull(machine: Any, found: list[Any], after: Callable[[Any], None] | None = None) -> bool:
    """Append the events of *machine* to *found* until it waits.  Return False if the session has ended."""
    while True:
        event = machine.next_event()
        match event:
            case NeedData():
                return True
            case Closed():
                found.append(event)
                return False
            case BeginTls():
                machine.tls_started(Tls(version="TLSv1.3"))
            case Paused():
                raise Finding("the machine is paused, although every question is answered")
            case Question():
                found.append(event)
                answer(machine, event)
            case _:
                found.append(event)
                if after is not None:
                    after(event)


def joined(events: Sequence[Any]) -> list[Any]:
    """Return the whole output, then the other events in order, with the data of neighboring chunks joined.

    How the output is divided depends on how the input was.
    """
    output = b"".join(event.data for event in events if isinstance(event, Send))
    found: list[Any] = [output]
    for event in events:
        if isinstance(event, MessageChunk) and isinstance(found[-1], MessageChunk):
            found[-1] = MessageChunk(data=found[-1].data + event.data)
        elif not isinstance(event, Send):
            found.append(event)
    return found


def serve(settings: Any, data: bytes, step: int) -> list[Any]:
    kind = smtp.ServerConnection if isinstance(settings, smtp.ServerSettings) else pop3.ServerConnection
    machine: Any = kind(settings, entropy=bytes(32))
    found: list[Any] = []
    going = pull(machine, found)
    for start in range(0, len(data), step):
        if not going:
            break
        machine.receive_data(data[start : start + step])
        going = pull(machine, found)
    if going:
        machine.receive_data(b"")
        if pull(machine, found):
            raise Finding("the server waits for data after the end of its input")
    return joined(found)


def talk(kind: Any, settings: Any, commands: Sequence[Command | None], pieces: Iterable[bytes]) -> list[Any]:
    """Return the events of a client that sends *commands* one after the other."""
    machine = kind(settings)
    waiting = list(commands)
    found: list[Any] = []

    def send_next(event: object) -> None:
        while waiting and not isinstance(event, Send):
            command = waiting.pop(0)
            try:
                if command is LOGIN:
                    machine.authenticate(sasl.LoginClient(authentication_identity="alice", password=b"secret"))
                else:
                    machine.send(command)
            except LocalProtocolError:
                continue
            if not isinstance(command, MessageChunk):
                return

    try:
        going = pull(machine, found, send_next)
        for piece in pieces:
            if not going:
                break
            machine.receive_data(piece)
            going = pull(machine, found, send_next)
        if going:
            machine.receive_data(b"")
            pull(machine, found, send_next)
    except RemoteProtocolError:
        found.append(RemoteProtocolError)
    return joined(found)


def check_server(tolerant: Any, strict: Any, data: bytes) -> None:
    for settings in (tolerant, strict):
        whole, single = serve(settings, data, 4_096), serve(settings, data, 1)
        if whole != single:
            raise Finding(f"other events if the bytes arrive one by one: {whole} and {single}")
        content = b""
        for event in whole:
            if isinstance(event, MessageChunk):
                content = event.data
            elif isinstance(event, smtp.MessageComplete) and _BARE.search(content):
                raise Finding(f"content with a bare CR, LF or NUL was accepted: {content!r}")
            elif isinstance(event, smtp.Data):
                content = b""
            if isinstance(event, smtp.Mail | smtp.Rcpt):
                check_relayed(event)
    compare_modes(tolerant, strict, data)
    for line in data.split(b"\r\n")[:-1]:  # in a whole session, one rejected line would hide what follows
        compare_modes(tolerant, strict, OPENINGS.get(line[:4].upper(), OPENINGS[b""]) + line + b"\r\n")


OPENINGS: Final = {
    b"": b"EHLO c\r\n",
    b"RCPT": b"EHLO c\r\nMAIL FROM:<a@b.test>\r\n",
    **dict.fromkeys((b"USER", b"APOP", b"CAPA", b"UTF8"), b""),
    **dict.fromkeys((b"STAT", b"LIST", b"UIDL", b"TOP ", b"RETR", b"DELE"), b"USER alice\r\nPASS secret\r\n"),
}  # fmt: skip
"""What comes before a command, by its first four bytes, so that it is allowed."""


def compare_modes(tolerant: Any, strict: Any, data: bytes) -> None:
    """Check that both servers read *data* in the same way, if the strict one rejects nothing."""
    read, read_strictly = serve(tolerant, data, 4_096), serve(strict, data, 4_096)
    rejected = (smtp.CommandRejected, pop3.CommandRejected, sasl.AuthenticationFailed)
    if not any(isinstance(event, rejected) for event in read_strictly) and read != read_strictly:
        raise Finding(f"strict syntax reads {read_strictly}, and the tolerant server {read}")


def check_relayed(command: smtp.Mail | smtp.Rcpt) -> None:
    """Check that the next hop reads the mailbox of *command* as this server does, or rejects it."""
    path = command.reverse_path if isinstance(command, smtp.Mail) else command.forward_path
    if path is None:
        return
    ascii_only = path.spelling.isascii()
    sent: smtp.Mail | smtp.Rcpt = (
        smtp.Mail(reverse_path=path, smtputf8=not ascii_only)
        if isinstance(command, smtp.Mail)
        else smtp.Rcpt(forward_path=path)
    )
    line = sent.to_wire()
    if line.count(b"\r\n") != 1 or _BARE.search(line):
        raise Finding(f"{path!r} is sent as {line!r}")
    opening = b"EHLO c\r\n" if isinstance(sent, smtp.Mail) else b"EHLO c\r\nMAIL FROM:<> SMTPUTF8\r\n"
    for settings in (TOLERANT_SMTP, STRICT_SMTP):
        read = [event for event in serve(settings, opening + line, 4_096) if type(event) is type(sent)][-1:]
        for event in read:
            other = event.reverse_path if isinstance(event, smtp.Mail) else event.forward_path
            if other is not None and other != path:
                raise Finding(f"{path!r} is relayed as {line!r} and read as {other!r}")


def check_client(kind: Any, tolerant: Any, strict: Any, commands: Sequence[Command | None], data: bytes) -> None:
    lines = data.splitlines(keepends=True)  # not in one piece: a reply that arrives before its command is an error
    single = [data[start : start + 1] for start in range(len(data))]
    for settings in (tolerant, strict):
        by_lines, by_bytes = talk(kind, settings, commands, lines), talk(kind, settings, commands, single)
        if by_lines != by_bytes:
            raise Finding(f"other events if the bytes arrive one by one: {by_lines} and {by_bytes}")
    if b"\t" in data:
        return  # with strict syntax, words separated by a tab are one keyword, which is unknown and not an error
    read, read_strictly = (talk(kind, settings, commands, lines) for settings in (tolerant, strict))
    rejected = (smtp.AuthenticationRejected, pop3.AuthenticationRejected)  # a prompt that strict syntax does not accept
    if RemoteProtocolError in read_strictly or any(isinstance(event, rejected) for event in read_strictly):
        return
    if read != read_strictly:
        raise Finding(f"the strict client reads {read_strictly}, and the tolerant one {read}")


LOGIN: Final = None
"""In place of a command: log in with the mechanism LOGIN."""

SMTP_COMMANDS: Final = (
    smtp.Hello(domain="localhost"), LOGIN, smtp.Mail(reverse_path=None),
    smtp.Rcpt(forward_path=smtp.Mailbox("bob", "example.org")), smtp.Data(), MessageChunk(data=b".\r\n"),
    smtp.MessageComplete(), smtp.Noop(), smtp.Quit(),
)  # fmt: skip
POP3_COMMANDS: Final = (
    pop3.Capa(), LOGIN, pop3.Stat(), pop3.List(), pop3.Retrieve(number=1), pop3.Dele(number=1),
    pop3.Quit(),
)  # fmt: skip

TARGETS: Final[dict[str, tuple[tuple[bytes, ...], Callable[[bytes], None]]]] = {
    "SMTP server": (SMTP_LINES, lambda data: check_server(TOLERANT_SMTP, STRICT_SMTP, data)),
    "POP3 server": (POP3_LINES, lambda data: check_server(TOLERANT_POP3, STRICT_POP3, data)),
    "SMTP client": (
        SMTP_REPLIES,
        lambda data: check_client(
            smtp.ClientConnection, smtp.ClientSettings(), smtp.ClientSettings(strict_syntax=True), SMTP_COMMANDS, data
        ),
    ),
    "POP3 client": (
        POP3_REPLIES,
        lambda data: check_client(
            pop3.ClientConnection, pop3.ClientSettings(), pop3.ClientSettings(strict_syntax=True), POP3_COMMANDS, data
        ),
    ),
}


def mutated(line: bytes, rng: random.Random) -> bytes:
    """Return *line*, usually unchanged, else with one to three changes."""
    for _ in range(rng.choice((0, 0, 0, 1, 1, 2, 3))):
        position = rng.randrange(len(line) + 1)
        match rng.randrange(5):
            case 0:
                line = line[:position] + line[position + rng.randrange(1, 4) :]
            case 1:
                line = line[:position] + line[position : position + 3].swapcase() + line[position + 3 :]
            case _:
                line = line[:position] + rng.choice(SNIPPETS) + line[position:]
    return line


STARTS: Final = {
    SMTP_LINES: (
        b"EHLO c\r\nMAIL FROM:<a@b.test> BODY=8BITMIME\r\nRCPT TO:<b@b.test>\r\nDATA\r\n",
        b"EHLO c\r\nMAIL FROM:<a@b.test>\r\nRCPT TO:<b@b.test>\r\nBDAT 30\r\n",
        b"EHLO c\r\nAUTH PLAIN\r\n",
    ),
    POP3_LINES: (b"USER alice\r\nPASS secret\r\n", b"AUTH PLAIN\r\n"),
    SMTP_REPLIES: (
        b"220 mx\r\n250-mx\r\n250 AUTH LOGIN\r\n334 VXNlcg==\r\n334 UGFzcw==\r\n235 ok\r\n",
        b"220 mx\r\n250 mx\r\n250 ok\r\n250 ok\r\n354 go ahead\r\n",
    ),
    POP3_REPLIES: (b"+OK\r\n+OK\r\nSASL LOGIN\r\n.\r\n+ \r\n+ \r\n+OK\r\n+OK 2 320\r\n+OK\r\n1 5\r\n2 7\r\n.\r\n",),
}
"""Beginnings of sessions, to reach the states that few changed sessions reach."""


def session(lines: tuple[bytes, ...], rng: random.Random) -> bytes:
    """Return lines in their order, with jumps, often after a beginning without changes."""
    data = rng.choice((b"", *STARTS.get(lines, ())))
    position = 0
    for _ in range(rng.randrange(1, 16)):
        if rng.randrange(3) == 0:
            position = rng.randrange(len(lines))
        data += mutated(lines[position % len(lines)], rng) + rng.choice(ENDS)
        position += 1
    return data


def fuzz(*, seconds: float, inputs: int | None, seed: int) -> int:
    """Fuzz for *seconds* of CPU time, or *inputs* for each target.  Return the exit status."""
    rng = random.Random(seed)
    end = time.process_time() + seconds
    count = 0
    while time.process_time() < end if inputs is None else count < inputs:
        for name, (lines, check) in TARGETS.items():
            data = session(lines, rng)
            try:
                check(data)
            except Exception as error:
                print(f"{name}: {type(error).__name__}: {error}\ninput: {data!r}")
                return 1
        count += 1
    print(f"seed {seed}: {count} inputs for each of {len(TARGETS)} targets, no finding")
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Fuzz the machines with and without strict syntax.")
    parser.add_argument("--seconds", type=float, default=60.0, help="CPU time (default: %(default)s)")
    parser.add_argument("--inputs", type=int, help="inputs for each target, instead of a time")
    parser.add_argument("--seed", type=int, default=0, help="seed of the random inputs (default: %(default)s)")
    options = parser.parse_args(arguments)
    return fuzz(seconds=options.seconds, inputs=options.inputs, seed=options.seed)


if __name__ == "__main__":
    sys.exit(main())
