"""The methods of an application's stores: which are coroutine functions, and what they return."""

from __future__ import annotations

import functools
import logging
import types
from collections.abc import Callable, Generator
from typing import Any
from unittest import mock

import pytest

from mailauth import pop3
from mailauth_io import server, stores
from mailauth_io.logs import Event
from mailauth_io.server._results import check_returned_interface
from tests.io.server_support import PASSWORD, Run, Served, accounts, authenticate, meet, on_both_loops, run_on_trio

Store = Any

PARTS: dict[str, Callable[[], Store]] = {
    "accounts": accounts,
    "maildrops": stores.MemoryMaildrops,
    "outbox": stores.MemoryOutbox,
    "grants": stores.MemoryGrants,
    "tokens": accounts,
    "certificates": accounts,
}
ASYNC = [
    *(("accounts", "find"), ("accounts", "refresh"), ("tokens", "token_owner"), ("certificates", "certificate_owners")),
    *(("maildrops", "open"), ("maildrops", "stage"), ("outbox", "stage")),
    *(("grants", name) for name in ("find", "grant", "revoke_identity", "revoke_address", "active")),
]
PLAIN = [("accounts", "credentials"), ("grants", "close")]


def built(**replaced: Store) -> server.Stores:
    return server.Stores(**{**{name: make() for name, make in PARTS.items()}, **replaced})


def with_method(part: str, method: str, function: object) -> Store:
    """Return a store whose method is *function*, found in the class."""
    made = PARTS[part]()
    made.__class__ = type("Database", (type(made),), {method: function})
    return made


def plain(self: object, *args: object, **options: object) -> None:
    raise AssertionError("not called")


async def coroutine(self: object, *args: object, **options: object) -> None:
    raise AssertionError("not called")


async def generator(self: object, *args: object) -> Any:
    yield None


@functools.wraps(plain)
def wrapper(*args: object, **options: object) -> None:
    return plain(*args, **options)


@pytest.mark.parametrize(("part", "method"), ASYNC)
@pytest.mark.parametrize("function", [plain, generator, wrapper, functools.lru_cache(plain), staticmethod(plain)])
def test_plain_method_in_place_of_a_coroutine_is_an_error(part: str, method: str, function: object) -> None:
    with pytest.raises(TypeError) as raised:
        built(**{part: with_method(part, method, function)})
    assert str(raised.value).endswith(f"; {method}() of Database must be a coroutine function, defined with async def")
    assert str(raised.value).startswith(f"{part} must have the methods of stores.")


@pytest.mark.parametrize(("part", "method"), PLAIN)
def test_coroutine_in_place_of_a_plain_method_is_an_error(part: str, method: str) -> None:
    with pytest.raises(TypeError, match=rf"{method}\(\) of Database must be a plain function, without async"):
        built(**{part: with_method(part, method, coroutine)})


@pytest.mark.parametrize(("part", "method"), [*ASYNC, *PLAIN])
def test_missing_method_is_an_error(part: str, method: str) -> None:
    with pytest.raises(TypeError, match=f"Database has no method {method}$"):
        built(**{part: with_method(part, method, None)})


def test_every_method_of_the_interfaces_is_tested() -> None:
    protocols = {
        "accounts": stores.Accounts, "maildrops": stores.Maildrops, "outbox": stores.Outbox, "grants": stores.Grants,
        "tokens": stores.Tokens, "certificates": stores.Certificates,
    }  # fmt: skip
    public = {
        (part, name)
        for part, protocol in protocols.items()
        for name in vars(protocol)
        if not name.startswith("_") and callable(getattr(protocol, name))
    }
    assert public == {*ASYNC, *PLAIN}


class AsyncCallable:
    async def __call__(self, name: str) -> None:
        raise AssertionError("not called")


class PlainCallable:
    def __call__(self, name: str) -> None:
        raise AssertionError("not called")


@functools.wraps(coroutine)
def wraps_a_coroutine(*args: object) -> object:
    return coroutine(*args)


@types.coroutine
def old_coroutine(name: str) -> Generator[None, None, None]:
    yield


class Delegating:
    def __init__(self, real: object) -> None:
        self._real = real

    def __getattr__(self, name: str) -> object:
        return getattr(self._real, name)


@pytest.mark.parametrize(
    "function",
    [
        AsyncCallable(),
        AsyncCallable().__call__,
        functools.partial(coroutine, None),
        functools.partial(AsyncCallable()),
        wraps_a_coroutine,
        old_coroutine,
        mock.AsyncMock(),
        {}.get,  # compiled: what it returns is not known before a call
    ],
)
def test_other_coroutine_functions_are_accepted(function: object) -> None:
    found = accounts()
    found.find = function  # type: ignore[method-assign,assignment]  # an attribute in place of a method
    assert built(accounts=found).accounts is found


@pytest.mark.parametrize("function", [PlainCallable(), functools.partial(plain, None), mock.Mock(), wrapper])
def test_other_plain_functions_are_an_error(function: object) -> None:
    found = accounts()
    found.find = function  # type: ignore[method-assign,assignment]  # the mistake
    with pytest.raises(TypeError, match=r"find\(\) of MemoryAccounts must be a coroutine function"):
        built(accounts=found)


def test_stand_ins_for_whole_stores_are_accepted() -> None:
    for found in (Delegating(accounts()), mock.create_autospec(stores.MemoryAccounts, instance=True)):
        assert built(accounts=found).accounts is found


def test_authenticator_checks_its_stores_too() -> None:
    with pytest.raises(TypeError, match=r"find\(\) of Database must be a coroutine function"):
        server.Authenticator(with_method("accounts", "find", plain))
    with pytest.raises(TypeError, match=r"credentials\(\) of Database must return a collection of Credential, not str"):
        server.Authenticator(with_method("accounts", "credentials", lambda self: [PASSWORD]))
    with pytest.raises(
        TypeError, match=r"credentials\(\) of Database must return a collection of Credential, not None"
    ):
        server.Authenticator(with_method("accounts", "credentials", lambda self: None))


def returning(part: str, method: str, value: object) -> Store:
    async def function(self: object, *args: object, **options: object) -> object:
        return value

    return with_method(part, method, function)


class Copy:
    """A staged message whose discard() is a coroutine function."""

    async def commit(self) -> None:
        raise AssertionError("not called")

    async def discard(self) -> None:
        raise AssertionError("not called")


class Opened:
    messages = ()

    async def read(self, number: int, offset: int = 0) -> Any: ...

    async def update(self, deleted: frozenset[int]) -> None: ...

    async def close(self) -> None: ...


class OneMessage:
    """A maildrop with one message.  The methods return what a test sets."""

    messages = (pop3.Message(size=10, unique_id="a"),)

    def __init__(self, *contents: object, updated: object = None) -> None:
        self._contents = contents
        self._updated = updated

    async def read(self, number: int, offset: int = 0) -> Any:
        return self._contents[0 if offset == 0 else 1]

    async def update(self, deleted: frozenset[int]) -> Any:
        return self._updated

    def close(self) -> None: ...


class Uncommitted:
    """A staged message that reports with False that it was not stored."""

    async def commit(self) -> Any:
        return False

    def discard(self) -> None: ...


def log_in(served: Served) -> bytes:
    with served.smtp("smtps") as smtp:
        smtp.user, smtp.password = "alice", PASSWORD
        code, text = smtp.docmd("AUTH", "PLAIN AGFsaWNlAGNvcnJlY3QgaG9yc2U=")
        return b"%d %s" % (code, text)


def send(served: Served, recipient: str) -> bytes:
    with served.smtp("smtps") as smtp:
        assert authenticate(smtp, "PLAIN") == 235
        smtp.mail("alice@example.test")
        assert smtp.rcpt(recipient)[0] == 250
        return b"%d" % smtp.data("x")[0]


def send_without_login(served: Served) -> bytes:
    with served.smtp() as smtp:
        smtp.mail("alice@example.test")
        return b"%d" % smtp.rcpt("dinah@far.test")[0]


def open_maildrop(served: Served) -> bytes:
    session = served.pop3("pop3s")
    session.user("alice")
    session.sock.sendall(f"PASS {PASSWORD}\r\n".encode())
    answer = session.file.readline()
    session.close()
    return answer


def with_message(served: Served, *commands: bytes) -> list[bytes]:
    """Log in, send *commands*, and return the rest of each first line of a response."""
    session = served.log_in()
    answers: list[bytes] = []
    for command in commands:
        session.sock.sendall(command + b"\r\n")
        answers.append(session.file.readline())
    session.close()
    return answers


def retrieve(served: Served) -> bytes:
    first, second = with_message(served, b"RETR 1", b"NOOP")
    assert second.startswith(b"+OK")  # the session goes on
    return first


def delete(served: Served) -> bytes:
    return with_message(served, b"DELE 1", b"QUIT")[1]


def send_token(served: Served) -> bytes:
    with served.smtp("smtps") as smtp:
        return b"%d" % smtp.docmd("AUTH", "XOAUTH2 dXNlcj1hbGljZQFhdXRoPUJlYXJlciB0b2tlbgEB")[0]


WRONG: list[tuple[str, str, object, Callable[[Served], bytes], bytes, str]] = [
    ("accounts", "find", PASSWORD, log_in, b"454", "an Account or None, not str"),
    ("accounts", "find", False, log_in, b"454", "an Account or None, not bool"),
    ("accounts", "refresh", [PASSWORD], log_in, b"454", "Changes or None, not list"),
    ("tokens", "token_owner", accounts(), send_token, b"454", "a str or None, not MemoryAccounts"),
    ("grants", "find", "alice", send_without_login, b"451", "a Grant, UNAVAILABLE or None, not str"),
    ("grants", "grant", None, open_maildrop, b"+OK", "the number of identities at the address, not None"),
    ("maildrops", "stage", None, lambda served: send(served, "alice@example.test"), b"451",
     "an object with the methods of stores.Staged; None has no method commit, discard"),
    ("outbox", "stage", Copy(), lambda served: send(served, "dinah@far.test"), b"451",
     "an object with the methods of stores.Staged; discard() of Copy must be a plain function, without async"),
    ("maildrops", "open", Opened(), open_maildrop, b"-ERR [SYS/TEMP]",
     "an object with the methods of stores.OpenedMaildrop; close() of Opened must be a plain function, without async"),
]  # fmt: skip


@on_both_loops
@pytest.mark.parametrize(("part", "method", "value", "client", "reply", "wanted"), WRONG, ids=range(len(WRONG)))
def test_wrong_result_is_a_temporary_failure_with_message_and_traceback_in_the_log(
    run: Run,
    part: str,
    method: str,
    value: object,
    client: Callable[[Served], bytes],
    reply: bytes,
    wanted: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.ERROR, "mailauth_io.server")
    kept = built(**{part: returning(part, method, value)})
    said = meet(run, client, kept=kept, postmaster=None)
    assert said.startswith(reply)
    record = caplog.records[0]
    assert isinstance(record.msg, Event)
    assert record.msg.fields["reason"] == f"WrongResult: {method}() of Database must return {wanted}"
    assert record.exc_info is not None
    assert "Traceback" in caplog.text
    assert PASSWORD not in caplog.text


INNER: list[tuple[str, str, object, Callable[[Served], bytes], bytes, str]] = [
    ("maildrops", "open", OneMessage(b"text\r\n"), retrieve, b"-ERR [SYS/TEMP]",
     "read() of OneMessage must return a pop3.Content, not bytes"),
    ("maildrops", "open", OneMessage(None), retrieve, b"-ERR [SYS/TEMP]",
     "read() of OneMessage must return a pop3.Content, not None"),
    ("maildrops", "open", OneMessage(updated=0), delete, b"-ERR [SYS/TEMP]",
     "update() of OneMessage must return None, not int"),
    ("maildrops", "stage", Uncommitted(), lambda served: send(served, "alice@example.test"), b"451",
     "commit() of Uncommitted must return None, not bool"),
    ("outbox", "stage", Uncommitted(), lambda served: send(served, "dinah@far.test"), b"451",
     "commit() of Uncommitted must return None, not bool"),
]  # fmt: skip
"""Methods of what a store returns."""


@on_both_loops
@pytest.mark.parametrize(("part", "method", "value", "client", "reply", "wanted"), INNER, ids=range(len(INNER)))
def test_wrong_result_of_what_a_store_returns_is_a_temporary_failure(
    run: Run,
    part: str,
    method: str,
    value: object,
    client: Callable[[Served], bytes],
    reply: bytes,
    wanted: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.ERROR, "mailauth_io.server")
    kept = built(**{part: returning(part, method, value)})
    assert meet(run, client, kept=kept, postmaster=None).startswith(reply)
    assert isinstance(caplog.records[0].msg, Event)
    assert caplog.records[0].msg.fields["reason"] == f"WrongResult: {wanted}"
    assert caplog.records[0].exc_info is not None


RULE = "read() of OneMessage must return text with CRLF line ends: data contains a bare CR or a bare LF"


@on_both_loops
@pytest.mark.parametrize("text", [b"Subject: x\n\nbody\n", b"Subject: x\r\n\r\nbody\r"])
def test_maildrop_with_bare_lf_is_a_temporary_failure(run: Run, text: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """architecture.md, invariants 1 and 10."""
    kept = built(maildrops=returning("maildrops", "open", OneMessage(pop3.Content(data=text))))
    assert meet(run, retrieve, kept=kept, postmaster=None).startswith(b"-ERR [SYS/TEMP]")
    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert record.getMessage().startswith("store failed ")
    assert RULE in record.getMessage()
    assert record.exc_info is not None


@on_both_loops
def test_bare_lf_in_a_later_piece_closes_the_connection_without_final_dot(
    run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    """A client must not take the part before it for the whole message."""
    pieces = (pop3.Content(data=b"one\r\n", last=False), pop3.Content(data=b"two\nthree\r\n"))
    kept = built(maildrops=returning("maildrops", "open", OneMessage(*pieces)))

    def client(served: Served) -> bytes:
        session = served.log_in()
        session.sock.sendall(b"RETR 1\r\n")
        received: bytes = session.file.read()
        session.close()
        return received

    assert meet(run, client, kept=kept, postmaster=None).endswith(b"\r\none\r\n")
    assert RULE in caplog.text


def test_wrong_certificate_owners_are_a_type_error() -> None:
    async def main() -> None:
        found = server.Authenticator(accounts(), certificates=returning("certificates", "certificate_owners", "alice"))
        with pytest.raises(TypeError, match=r"certificate_owners\(\) of Database must return a frozenset of names"):
            await found.certificate_owners(frozenset({"CN:alice"}))
        found = server.Authenticator(accounts(), certificates=returning("certificates", "certificate_owners", {1}))
        with pytest.raises(TypeError, match="must return a frozenset of names, not int"):
            await found.certificate_owners(frozenset({"CN:alice"}))

    run_on_trio(main)


class Sound:
    """A staged copy whose class has all methods."""

    async def commit(self) -> None: ...

    def discard(self) -> None: ...


class Partial:
    """A staged copy that has its second method only as an attribute of the object."""

    async def commit(self) -> None: ...

    def __init__(self) -> None:
        self.discard = lambda: None


def test_each_object_is_checked_although_the_check_of_its_class_is_remembered() -> None:
    check_returned_interface(None, "stage", Sound(), stores.Staged)
    changed: Any = Sound()
    changed.discard = changed.commit
    with pytest.raises(TypeError, match=r"discard\(\) of Sound must be a plain function"):
        check_returned_interface(None, "stage", changed, stores.Staged)
    check_returned_interface(None, "stage", Sound(), stores.Staged)
    for _ in range(2):
        check_returned_interface(None, "stage", Partial(), stores.Staged)
    with pytest.raises(TypeError, match="must return an object"):
        check_returned_interface(None, "open", Sound(), stores.OpenedMaildrop)


class ClosedMaildrop:
    """A maildrop that cannot be used after ``close()``, and fails while the server waits for its release."""

    def __init__(self) -> None:
        self._closed = False

    @property
    def messages(self) -> tuple[pop3.Message, ...]:
        if self._closed:
            raise ValueError("the maildrop is closed")
        return (pop3.Message(size=1, unique_id="1"),)

    async def read(self, number: int, offset: int = 0) -> pop3.Content:
        raise AssertionError("not called")

    async def update(self, deleted: frozenset[int]) -> None: ...

    def close(self) -> None:
        self._closed = True

    async def wait_closed(self) -> None:
        raise RuntimeError("the lock was lost")


@on_both_loops
@pytest.mark.parametrize("commands", [(b"QUIT",), (b"DELE 1", b"QUIT")])
def test_failure_after_a_maildrop_is_closed_does_not_change_the_reply_to_quit(
    run: Run, commands: tuple[bytes, ...], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR, "mailauth_io.server")
    kept = built(maildrops=returning("maildrops", "open", ClosedMaildrop()))
    assert meet(run, lambda served: with_message(served, *commands)[-1], kept=kept, postmaster=None).startswith(b"+OK")
    assert "the lock was lost" in caplog.text
