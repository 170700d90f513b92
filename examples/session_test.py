"""Test a login without a network, a thread or a clock: ``pytest examples/session_test.py``."""

from mailauth import ACCEPT, NeedData, Send, sasl, smtp

SETTINGS = smtp.ServerSettings(mechanisms_without_tls=frozenset({"PLAIN"}))


def replies(received: bytes, password: bytes) -> bytes:
    """Return what a server with one account, alice, sends to a client that sends *received*."""
    server, sent = smtp.ServerConnection(SETTINGS, entropy=bytes(32)), b""
    server.receive_data(received)
    while not isinstance(event := server.next_event(), NeedData):
        match event:
            case Send(data=data):
                sent += data
            case smtp.Connected():
                server.answer(event, ACCEPT)
            case sasl.CheckPassword(authentication_identity=name):
                valid = name == "alice" and event.password == password
                server.answer(event, ACCEPT if valid else sasl.Refusal.BAD_CREDENTIALS)
            case _:
                pass
    return sent


def test_login() -> None:
    session = b"EHLO client.test\r\nAUTH PLAIN AGFsaWNlAHdvbmRlcmxhbmQ=\r\n"  # alice, wonderland
    assert b"\r\n235 2.7.0 " in replies(session, b"wonderland")
    assert b"\r\n535 5.7.8 " in replies(session, b"queen of hearts")
