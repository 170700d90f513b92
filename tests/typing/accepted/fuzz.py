"""Fuzz targets: any octets end in events, and every question has an answer that knows nothing.  The tests run them."""

from __future__ import annotations

from mailauth import (
    ACCEPT,
    BeginTls,
    Closed,
    NeedData,
    Paused,
    Question,
    RemoteProtocolError,
    Tls,
    pop3,
    sasl,
    smtp,
)

SMTP = smtp.ServerSettings(mechanisms_without_tls=frozenset(sasl.DEFAULT_MECHANISMS.names), starttls=True)
POP3 = pop3.ServerSettings(mechanisms_without_tls=frozenset(pop3.DEFAULT_MECHANISMS.names), stls=True)


def smtp_server(octets: bytes) -> int:
    machine = smtp.ServerConnection(SMTP, entropy=bytes(32))
    machine.receive_data(octets)
    machine.receive_data(b"")
    events = 0
    while True:
        events += 1
        match machine.next_event():
            case NeedData() | Closed():
                return events
            case BeginTls():
                machine.tls_started(Tls(version="TLSv1.3"))
            case Paused():
                raise RuntimeError("no question is open, and yet it waits for an answer")
            case smtp.Connected() | smtp.Mail() | smtp.Rcpt() | smtp.Data() as q:
                machine.answer(q, ACCEPT)
            case Question() as q:
                machine.answer(q, q.unavailable)
            case _:
                pass


def pop3_server(octets: bytes) -> int:
    machine = pop3.ServerConnection(POP3, entropy=bytes(32))
    machine.receive_data(octets)
    machine.receive_data(b"")
    events = 0
    while True:
        events += 1
        match machine.next_event():
            case NeedData() | Closed():
                return events
            case BeginTls():
                machine.tls_started(Tls(version="TLSv1.3"))
            case Paused():
                raise RuntimeError("no question is open, and yet it waits for an answer")
            case pop3.Connected() as q:
                machine.answer(q, ACCEPT)
            case sasl.CheckPassword() as q:
                machine.answer(q, ACCEPT)
            case pop3.OpenMaildrop() as q:
                machine.answer(q, pop3.Maildrop(messages=(pop3.Message(size=5, unique_id="1"),)))
            case pop3.Retrieve() as q:
                machine.answer(q, pop3.Content(octets=b"a\r\n\r\n", last=True))
            case Question() as q:
                machine.answer(q, q.unavailable)
            case _:
                pass


def smtp_client(octets: bytes) -> int:
    machine = smtp.ClientConnection()
    machine.receive_data(octets)
    machine.receive_data(b"")
    events = 0
    while True:
        events += 1
        try:
            event = machine.next_event()
        except RemoteProtocolError:
            return events
        match event:
            case NeedData() | Closed() | Paused():
                return events
            case smtp.Replied(command=None, reply=reply) if reply.positive:
                machine.send(smtp.Hello(domain="client.example.test"))
            case _:
                pass
