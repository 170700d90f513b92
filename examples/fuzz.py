"""Fuzz targets for the protocol machines, and a small fuzzer that runs them.

    python examples/fuzz.py --runs 10000 --seed 1

A target passes any bytes to a machine as data from the peer.  It raises an exception if the machine raises one, if the
machine does not close at the end of its input, if a message or a login that has begun does not end exactly once, or if
the events or the output differ when the same bytes arrive one by one.  It also ends the session early: by shut_down(),
and by the end of the stream.  The fuzzer in this file generates half-valid sessions; other fuzzers can call the same
targets.  If a target fails, its input is printed and the exit status is 1.
"""

import argparse
import contextlib
import itertools
import random
import sys
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from mailauth import (
    ACCEPT,
    BeginTls,
    ClientMachine,
    Closed,
    Command,
    LocalProtocolError,
    Machine,
    MessageChunk,
    NeedData,
    Paused,
    Question,
    RemoteProtocolError,
    Send,
    ServerMachine,
    Tls,
    pop3,
    sasl,
    smtp,
)

SMTP = smtp.ServerSettings(mechanisms_without_tls=frozenset(sasl.DEFAULT_MECHANISMS.names), chunking=True)
POP3 = pop3.ServerSettings(mechanisms_without_tls=frozenset(pop3.DEFAULT_MECHANISMS.names))


class Misbehaved(Exception):
    """A machine broke a rule; the text describes it."""


class Session(NamedTuple):
    """What a machine has done."""

    output: bytes
    events: list[object]
    """All events except actions.  Neighboring chunks are joined, since their size depends on how the input is split."""


class Interruption(NamedTuple):
    """Ends a session early, after a number of events and actions."""

    after: int
    how: Callable[[Machine[Any]], None]


Run = Callable[[Iterable[bytes], Interruption | None], Session]
"""Runs a new machine with pieces of input."""


def drive(
    machine: Machine[Any], handle: Callable[[Any], None], pieces: Iterable[bytes], interruption: Interruption | None
) -> Session:
    """Return the session of the machine when *pieces* arrive and then the connection ends."""
    waiting = deque((*pieces, b""))
    output = b""
    events: list[object] = []
    for count in itertools.count():
        try:
            event = machine.next_event()
        except RemoteProtocolError:
            if isinstance(machine, ClientMachine):  # the only exception allowed, and only for clients
                return Session(output, [*events, RemoteProtocolError])
            raise
        if interruption is not None and count == interruption.after:
            interruption.how(machine)
            waiting.clear()
            if isinstance(event, NeedData):
                continue
        match event:
            case Send(data=data):
                output += data
            case NeedData() if waiting:
                machine.receive_data(waiting.popleft())
            case NeedData():
                raise Misbehaved("the machine waits for data after the end of its input")
            case BeginTls(data=data):
                # Only with STARTTLS in the settings.  The rest of the piece is dropped, so do not check() then.
                output += data
                machine.tls_started(Tls(version="TLSv1.3"))
            case Paused():
                raise Misbehaved("the machine is paused, although every question is answered")
            case Closed():
                if isinstance(machine, ServerMachine):
                    check_ends(events)
                return Session(output, [*events, event])
            case MessageChunk(data=data) if events and isinstance(last := events[-1], MessageChunk):
                events[-1] = MessageChunk(data=last.data + data)
                handle(event)
            case _:
                events.append(event)
                handle(event)
    raise AssertionError


def check_ends(events: Iterable[object]) -> None:
    """Check that what a server has begun has ended once.  The targets accept each Data."""
    for what, begin, end in (
        ("message", smtp.Data, smtp.MessageComplete | smtp.MessageAborted),
        ("login", sasl.AuthenticationStarted, sasl.Authenticated | sasl.AuthenticationFailed),
    ):
        begins = [isinstance(event, begin) for event in events if isinstance(event, begin | end)]
        if begins != [True, False] * (len(begins) // 2):
            raise Misbehaved(f"a {what} did not end exactly once: {events}")


def shut_down(machine: Machine[Any]) -> None:
    machine.shut_down()


def end_stream(machine: Machine[Any]) -> None:
    machine.receive_data(b"")


def check(run: Run, data: bytes, *, by_line: bool = False) -> None:
    """Run new machines: with *data* in large pieces, byte by byte, and ended early.  Compare the first two.

    Use *by_line* for a client: for it, a reply that arrives before its command is an error.
    """
    large = run(data.splitlines(keepends=True) if by_line else [data], None)
    small = run((data[start : start + 1] for start in range(len(data))), None)
    if large != small:
        raise Misbehaved(f"the session is {large}, but {small} when the bytes arrive one by one")
    first = zlib.crc32(data) % 4  # every fourth place, and the same ones for the same input
    for after in range(first, 2 * len(large.events) + 2, 4):  # there may be an action after each event
        for how in (shut_down, end_stream):
            run([data], Interruption(after, how))


def smtp_server(data: bytes) -> None:
    def run(pieces: Iterable[bytes], interruption: Interruption | None) -> Session:
        machine = smtp.ServerConnection(SMTP, entropy=bytes(32))

        def handle(event: smtp.ServerEvent) -> None:
            match event:
                case smtp.Connected() | smtp.Mail() | smtp.Rcpt() | smtp.Data() as question:
                    machine.answer(question, ACCEPT)
                case sasl.CheckPassword() as question:
                    machine.answer(question, ACCEPT)
                case Question() as question:
                    machine.decline(question)
                case _:
                    pass

        return drive(machine, handle, pieces, interruption)

    check(run, data)


def pop3_server(data: bytes) -> None:
    message = pop3.Content(data=b"Subject: a\r\n\r\n.b\r\n")
    maildrop = pop3.Maildrop(messages=(pop3.Message(size=len(message.data), unique_id="1"),))

    def run(pieces: Iterable[bytes], interruption: Interruption | None) -> Session:
        machine = pop3.ServerConnection(POP3, entropy=bytes(32))

        def handle(event: pop3.ServerEvent) -> None:
            match event:
                case pop3.Connected() as question:
                    machine.answer(question, ACCEPT)
                case sasl.CheckPassword() as question:
                    machine.answer(question, ACCEPT)
                case pop3.OpenMaildrop() as question:
                    machine.answer(question, maildrop)
                case pop3.Retrieve() as question:
                    machine.answer(question, message)
                case Question() as question:
                    machine.decline(question)
                case _:
                    pass

        return drive(machine, handle, pieces, interruption)

    check(run, data)


def smtp_client(data: bytes) -> None:
    def run(pieces: Iterable[bytes], interruption: Interruption | None) -> Session:
        machine = smtp.ClientConnection()
        bob = smtp.Mailbox("bob", "example.org")
        commands: Iterator[Command] = iter(
            [
                smtp.Hello(domain="localhost"),
                smtp.Mail(reverse_path=None),
                smtp.Rcpt(forward_path=bob),
                smtp.Data(),
                MessageChunk(data=b".\r\n"),
                smtp.MessageComplete(),
                smtp.Quit(),
            ]
        )

        def handle(event: smtp.ClientEvent) -> None:
            send_next(machine, commands)
            if isinstance(event, smtp.ReplyReceived) and isinstance(event.command, smtp.Data):
                send_next(machine, commands)  # a chunk gets no reply

        return drive(machine, handle, pieces, interruption)

    check(run, data, by_line=True)


def pop3_client(data: bytes) -> None:
    def run(pieces: Iterable[bytes], interruption: Interruption | None) -> Session:
        machine = pop3.ClientConnection()
        commands: Iterator[Command] = iter(
            [
                pop3.Capa(),
                pop3.List(),
                pop3.Retrieve(number=1),
                pop3.Retrieve(number=2, lines=0),
                pop3.Dele(number=1),
                pop3.Quit(),
            ]
        )

        def handle(event: pop3.ClientEvent) -> None:
            match event:
                case pop3.ReplyReceived(command=pop3.Capa()):
                    with contextlib.suppress(LocalProtocolError):  # the server may not offer it
                        machine.authenticate(sasl.UserPassClient(authentication_identity="alice", password=b"secret"))
                case pop3.ReplyReceived() | sasl.Authenticated():
                    send_next(machine, commands)
                case MessageChunk() | pop3.AuthenticationRejected():
                    pass

        return drive(machine, handle, pieces, interruption)

    check(run, data, by_line=True)


def send_next(machine: ClientMachine[Any], commands: Iterator[Command]) -> None:
    """Send the next command, if there is one and it is allowed now."""
    with contextlib.suppress(StopIteration, LocalProtocolError):
        machine.send(next(commands))


TARGETS: dict[Callable[[bytes], None], list[bytes]] = {
    smtp_server: [
        b"EHLO localhost\r\n",
        b"AUTH PLAIN AGFsaWNlAHNlY3JldA==\r\n",
        b"MAIL FROM:<alice@example.org>\r\n",
        b"RCPT TO:<bob@example.org>\r\n",
        b"DATA\r\n",
        b"..\r\n.\r\n",
        b"MAIL FROM:<alice@example.org>\r\n",
        b"RCPT TO:<bob@example.org>\r\n",
        b"BDAT 4\r\na\r\nb",
        b"BDAT 2 LAST\r\n\r\n",
        b"RSET\r\n",
        b"QUIT\r\n",
    ],
    pop3_server: [
        b"CAPA\r\n",
        b"USER alice\r\n",
        b"PASS secret\r\n",
        b"LIST\r\n",
        b"RETR 1\r\n",
        b"TOP 1 0\r\n",
        b"DELE 1\r\n",
        b"QUIT\r\n",
    ],
    smtp_client: [
        b"220 ready\r\n",
        b"250-localhost\r\n250 PIPELINING\r\n",
        b"250 ok\r\n",
        b"250 ok\r\n",
        b"354 go ahead\r\n",
        b"250 ok\r\n",
        b"550-no\r\n550 such user\r\n",
        b"421 closing\r\n",
    ],
    pop3_client: [
        b"+OK ready\r\n",
        b"+OK\r\nUSER\r\nPIPELINING\r\n.\r\n",
        b"+OK\r\n",
        b"+OK\r\n",
        b"+OK\r\n1 5\r\n2 7\r\n.\r\n",
        b"+OK\r\nSubject: a\r\n\r\n..b\r\n.\r\n",
        b"+OK\r\nSubject: a\r\n\r\n.\r\n",
        b"+OK\r\n",
        b"-ERR no\r\n",
    ],
}
"""Each target with valid input lines for its machine, in the order of a session."""


def session(lines: Sequence[bytes], rng: random.Random) -> bytes:
    """Return a half-valid session: the lines in order, with jumps and random bytes."""
    data = b""
    position = 0
    for _ in range(rng.randrange(20)):
        match rng.randrange(10):
            case 0:
                data += rng.randbytes(rng.randrange(20))
            case 1:
                position = rng.randrange(len(lines))
            case _:
                pass
        data += lines[position % len(lines)]
        position += 1
    return data


def run_targets(runs: int, seed: int) -> int:
    rng = random.Random(seed)
    for _ in range(runs):
        for target, lines in TARGETS.items():
            data = session(lines, rng)
            try:
                target(data)
            except Exception as error:
                print(f"{target.__name__} failed on {data!r}: {type(error).__name__}: {error}")
                return 1
    print(f"{runs} inputs for each of {len(TARGETS)} targets, no failures.")
    return 0


def positive(text: str) -> int:
    if int(text) < 1:
        raise ValueError
    return int(text)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Fuzz the protocol machines of mailauth.")
    parser.add_argument("--runs", type=positive, default=1_000, help="inputs for each target (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the random inputs (default: %(default)s)")
    args = parser.parse_args(arguments)
    try:
        return run_targets(args.runs, args.seed)
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
