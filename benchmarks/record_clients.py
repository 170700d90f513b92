"""Record what real clients send, into benchmarks/traffic/.

Starts the SMTP and POP3 servers of mailauth, and for each client a proxy that records the segments in which the bytes
arrive.  The clients are smtplib, poplib, curl, msmtp, swaks, fetchmail, mpop and getmail; the relay is Postfix, started
with a separate configuration and queue, which requires root.  A client that is not installed is skipped, and its
recording is not changed.

  python benchmarks/record_clients.py [NAME ...]
"""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
import poplib
import re
import select
import shutil
import smtplib
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import attrs

from _load import ASYNCIO, Server
from _messages import KILOBYTE, PASSWORD
from _traffic import DIGEST, FOLDER, write

HOST: Final = "127.0.0.1"
CLIENT: Final = "client.example.test"
SENDER: Final = "alice@example.test"
RECIPIENT: Final = "bob@example.test"
MEMBERS: Final = [f"member{number}@example.test" for number in range(20)]
SECRET: Final = PASSWORD.decode("ascii")

Segments = list[tuple[bool, bytes]]


class Proxy:
    """Accepts connections, forwards the data of both sides, and records the segments of each.

    A reply is delayed until the client has sent nothing for a moment, so that data sent without waiting for the reply
    is recorded before it.
    """

    SILENCE: Final = 0.05

    def __init__(self, port: int) -> None:
        self._to = port
        self._listener = socket.create_server((HOST, 0))
        self.port: int = self._listener.getsockname()[1]
        self.sessions: list[Segments] = []
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        while True:
            client, _ = self._listener.accept()
            threading.Thread(target=self._carry, args=(client,), daemon=True).start()

    def _carry(self, client: socket.socket) -> None:
        segments: Segments = []
        self.sessions.append(segments)
        with client, socket.create_connection((HOST, self._to)) as server:
            for one in (client, server):
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            reading = [client, server]
            held = b""
            while True:
                ready, _, _ = select.select(reading, [], [], self.SILENCE)
                if not ready:
                    if held:
                        segments.append((False, held))
                        with contextlib.suppress(ConnectionError):  # some clients do not wait for the last reply
                            client.sendall(held)
                        held = b""
                    if server not in reading:
                        return
                for one in ready:
                    data = received(one)
                    if not data:
                        reading.remove(one)
                    if one is server:
                        held += data
                    elif data:
                        segments.append((True, data))
                        server.sendall(data)
                    else:
                        server.shutdown(socket.SHUT_WR)


def received(one: socket.socket) -> bytes:
    """Return the data received; empty at the end of the stream or if the peer resets the connection."""
    try:
        return one.recv(1_048_576)
    except ConnectionError:
        return b""


@attrs.frozen
class Place:
    """The address of the server, and an empty directory for the client."""

    port: int
    folder: Path

    def file(self, name: str, text: str) -> str:
        path = self.folder / name
        path.touch(mode=0o600)
        path.write_text(text)
        return str(path)


def run(words: list[str], place: Place, data: bytes = b"", accepted: tuple[int, ...] = (0,)) -> None:
    """Run a program to completion, without the settings of the current user."""
    environment = {"PATH": f"{os.environ['PATH']}:/usr/sbin", "HOME": str(place.folder), "LC_ALL": "C.UTF-8"}
    done = subprocess.run(words, input=data, capture_output=True, timeout=60, env=environment, cwd=place.folder)
    if done.returncode not in accepted:
        raise RuntimeError(f"{words[0]} exited with status {done.returncode}: {done.stdout!r} {done.stderr!r}")


def version(*words: str) -> str:
    """Return the name and version in the program's version text."""
    said = subprocess.run(words, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    found = re.search(r"\d+(?:\.\d+)+", said.stdout + said.stderr)
    name = {"postconf": "Postfix"}.get(words[0], words[0])
    return f"{name} {found[0] if found else ''}".rstrip()


# SMTP


def smtplib_device(place: Place) -> None:
    """A device or script: one message, no login."""
    with smtplib.SMTP(HOST, place.port, CLIENT) as client:
        client.sendmail(SENDER, RECIPIENT, KILOBYTE)


def smtplib_auth(place: Place) -> None:
    with smtplib.SMTP(HOST, place.port, CLIENT) as client:
        client.login("alice", SECRET)
        client.sendmail(SENDER, RECIPIENT, KILOBYTE)


def smtplib_many(place: Place) -> None:
    with smtplib.SMTP(HOST, place.port, CLIENT) as client:
        for _ in range(3):
            client.sendmail(SENDER, RECIPIENT, KILOBYTE)


def curl_auth(place: Place) -> None:
    words = ["curl", "--silent", "--show-error", "--user", f"alice:{SECRET}", "--login-options", "AUTH=PLAIN"]
    path = place.file("message", KILOBYTE.decode("ascii").replace("\r\n", "\n"))
    words += ["--mail-from", SENDER, "--mail-rcpt", RECIPIENT, "--crlf", "--upload-file", path]
    run([*words, f"smtp://{HOST}:{place.port}/{CLIENT}"], place)


def msmtp_auth(place: Place) -> None:
    settings = f"account default\nhost {HOST}\nport {place.port}\ntls off\nauth plain\nuser alice\n"
    settings += f'password "{SECRET}"\ndomain {CLIENT}\nfrom {SENDER}\n'
    words = ["msmtp", "-C", place.file("msmtprc", settings), "--", RECIPIENT]
    run(words, place, KILOBYTE.replace(b"\r\n", b"\n"))


def swaks_auth(place: Place) -> None:
    path = place.file("message", KILOBYTE.decode("ascii").replace("\r\n", "\n"))
    words = [
        "swaks",
        "--server",
        HOST,
        "--port",
        str(place.port),
        "--helo",
        CLIENT,
        "--from",
        SENDER,
        "--to",
        RECIPIENT,
    ]
    words += ["--auth", "PLAIN", "--auth-user", "alice", "--auth-password", SECRET, "--data", f"@{path}"]
    run(words, place)


def postfix(place: Place, recipients: list[str], messages: int) -> None:
    """A separate Postfix instance that accepts *messages* and relays them."""
    with socket.create_server((HOST, 0)) as free:
        port = free.getsockname()[1]
    folder = place.folder
    os.chmod(folder, 0o755)
    (folder / "queue").mkdir()
    (folder / "data").mkdir()
    shutil.chown(folder / "data", "postfix", "postfix")
    services = "cleanup qmgr rewrite bounce defer trace smtp relay error retry anvil scache postlog"
    programs = {"rewrite": "trivial-rewrite", "defer": "bounce", "trace": "bounce", "relay": "smtp"}
    programs |= {"postlog": "postlogd", "retry": "error"}
    alone = {"cleanup": "0", "qmgr": "1", "scache": "1", "postlog": "1", "anvil": "1", "bounce": "0", "trace": "0"}
    wakeup = {"qmgr": "300"}
    rows = [f"{HOST}:{port} inet n - n - - smtpd"]
    for name in services.split():
        kind = "unix-dgram" if name == "postlog" else "unix"
        rows.append(
            f"{name} {kind} {'n' if name in ('cleanup', 'qmgr', 'postlog') else '-'} - n {wakeup.get(name, '-')} "
            f"{alone.get(name, '-')} {programs.get(name, name)}"
        )
    (folder / "master.cf").write_text("".join(f"{row}\n" for row in rows))
    settings = {
        "compatibility_level": "3.6",
        "queue_directory": folder / "queue",
        "data_directory": folder / "data",
        "maillog_file": folder / "log",
        "maillog_file_prefixes": folder,
        "myhostname": "relay.example.test",
        "mydestination": "",
        "mynetworks": "127.0.0.0/8",
        "inet_interfaces": HOST,
        "inet_protocols": "ipv4",
        "alias_maps": "",
        "local_recipient_maps": "",
        "relay_domains": "example.test",
        "relayhost": f"[{HOST}]:{place.port}",
        "relay_transport": "relay",
        "smtp_dns_support_level": "disabled",
        "smtp_tls_security_level": "none",
        "default_destination_concurrency_limit": "1",
        "smtp_connection_cache_destinations": f"[{HOST}]:{place.port}",
        "smtpd_recipient_restrictions": "permit_mynetworks, reject",
    }
    (folder / "main.cf").write_text("".join(f"{name} = {value}\n" for name, value in settings.items()))
    with subprocess.Popen(
        ["/usr/sbin/postfix", "-c", str(folder), "start-fg"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        try:
            for _ in range(100):
                try:
                    socket.create_connection((HOST, port)).close()
                    break
                except OSError:
                    time.sleep(0.1)
            with smtplib.SMTP(HOST, port, CLIENT) as client:
                for _ in range(messages):
                    client.sendmail(SENDER, recipients, KILOBYTE, mail_options=["BODY=8BITMIME"])
            for _ in range(300):
                time.sleep(0.1)
                if (folder / "log").read_text().count("status=sent") == messages * len(recipients):
                    break
            else:
                raise RuntimeError((folder / "log").read_text())
            time.sleep(3)  # Postfix closes an idle connection to the next hop after two seconds
        finally:
            subprocess.run(["/usr/sbin/postfix", "-c", str(folder), "stop"], capture_output=True, check=False)
            process.wait(30)


def postfix_group(place: Place) -> None:
    postfix(place, [RECIPIENT], 1)


def postfix_many(place: Place) -> None:
    postfix(place, [RECIPIENT], 6)


def postfix_list(place: Place) -> None:
    postfix(place, MEMBERS, 1)


# POP3


def poplib_session(place: Place, name: str = "alice", apop: bool = False) -> None:
    client = poplib.POP3(HOST, place.port)
    if apop:
        client.apop(name, SECRET)
    else:
        client.user(name)
        client.pass_(SECRET)
    client.stat()
    client.list()
    client.uidl()
    client.retr(1)
    client.dele(1)
    client.quit()


def poplib_apop(place: Place) -> None:
    poplib_session(place, apop=True)


def poplib_large(place: Place) -> None:
    poplib_session(place, "erin")


def fetchmail(place: Place, name: str) -> None:
    settings = f'poll {HOST} service {place.port} protocol POP3 no dns timeout 30 user "{name}" '
    settings += f'password "{SECRET}" nokeep sslproto "" no rewrite mda "cat > /dev/null"\n'
    files = ["--pidfile", str(place.folder / "pid"), "--idfile", str(place.folder / "ids")]
    words = ["fetchmail", "--nosyslog", "-f", place.file("fetchmailrc", settings), *files]
    run(words, place, accepted=(0, 1))  # 1: no mail


def fetchmail_session(place: Place) -> None:
    fetchmail(place, "alice")


def fetchmail_empty(place: Place) -> None:
    fetchmail(place, "bob")


def mpop(place: Place, name: str) -> None:
    for folder in ("tmp", "new", "cur"):
        (place.folder / "maildir" / folder).mkdir(parents=True)
    settings = f"account default\nhost {HOST}\nport {place.port}\ntls off\nauth user\nuser {name}\n"
    settings += f'password "{SECRET}"\nkeep off\ndelivery maildir {place.folder}/maildir\n'
    settings += f"uidls_file {place.folder}/uidls\n"
    run(["mpop", "-C", place.file("mpoprc", settings)], place)


def mpop_ten(place: Place) -> None:
    """Pipelines commands if the server offers PIPELINING."""
    mpop(place, "carol")


def mpop_empty(place: Place) -> None:
    mpop(place, "bob")


def getmail_thousand(place: Place) -> None:
    settings = f"[retriever]\ntype = SimplePOP3Retriever\nserver = {HOST}\nport = {place.port}\nusername = dave\n"
    settings += f"password = {SECRET}\n[destination]\ntype = MDA_external\npath = /bin/cat\n"
    settings += "allow_root_commands = true\n[options]\ndelete = false\nmax_messages_per_session = 10\n"
    run(["getmail", "--getmaildir", str(place.folder), "--rcfile", place.file("getmailrc", settings)], place)


@attrs.frozen
class Client:
    """How a recording is made, and its description."""

    about: str
    program: tuple[str, ...]
    """The command that prints the version; empty for a module of the standard library."""
    record: Callable[[Place], None]


CLIENTS: Final = {
    "smtp-smtplib-device": Client("one message without a login", (), smtplib_device),
    "smtp-smtplib-auth": Client("AUTH PLAIN and one message", (), smtplib_auth),
    "smtp-smtplib-many": Client("three messages in one session", (), smtplib_many),
    "smtp-curl-auth": Client("AUTH PLAIN and one message", ("curl", "--version"), curl_auth),
    "smtp-msmtp-auth": Client("AUTH PLAIN and one message", ("msmtp", "--version"), msmtp_auth),
    "smtp-swaks-auth": Client("AUTH PLAIN and one message", ("swaks", "--version"), swaks_auth),
    "smtp-postfix-one": Client("a relay with one message", ("postconf", "-d", "mail_version"), postfix_group),
    "smtp-postfix-many": Client("a relay with several messages", ("postconf", "-d", "mail_version"), postfix_many),
    "smtp-postfix-list": Client("a message with twenty recipients", ("postconf", "-d", "mail_version"), postfix_list),
    "pop3-poplib": Client("USER and PASS, one message, deleted", (), poplib_session),
    "pop3-poplib-apop": Client("APOP, one message, deleted", (), poplib_apop),
    "pop3-poplib-large": Client("one message of 10 MB", (), poplib_large),
    "pop3-fetchmail": Client("one message, deleted", ("fetchmail", "--version"), fetchmail_session),
    "pop3-fetchmail-empty": Client("a poll of an empty maildrop", ("fetchmail", "--version"), fetchmail_empty),
    "pop3-mpop": Client("ten messages, pipelined, deleted", ("mpop", "--version"), mpop_ten),
    "pop3-mpop-empty": Client("a poll of an empty maildrop", ("mpop", "--version"), mpop_empty),
    "pop3-getmail": Client("ten messages of a maildrop of 1,000", ("getmail", "--version"), getmail_thousand),
}


def normalized(data: bytes) -> bytes:
    """Remove what differs in each run or depends on the machine."""
    data = re.sub(rb"(?m)^(APOP \S+) [0-9a-f]{32}", rb"\1 " + DIGEST, data)
    data = data.replace(socket.gethostname().encode(), CLIENT.encode())
    data = re.sub(rb"ESMTP id [0-9A-Za-z]+", b"ESMTP id ABC123", data)
    data = re.sub(rb"queued as \w+", b"queued as ABC123", data)
    data = re.sub(rb"<[0-9a-f]{32}@", b"<1@", data)
    data = re.sub(rb"\w{3}, {1,2}\d{1,2} \w{3} \d{4} \d\d:\d\d:\d\d", b"Tue, 24 Nov 2026 08:00:00", data)
    return data


def record(name: str, client: Client, into: Path) -> None:
    """Run the client and write its recording."""
    protocol = name.partition("-")[0]
    with Server(protocol, ASYNCIO, min(os.sched_getaffinity(0))) as server:
        proxy = Proxy(server.port)
        with tempfile.TemporaryDirectory() as folder:
            client.record(Place(proxy.port, Path(folder)))
    segments = [(from_client, normalized(data)) for from_client, data in max(proxy.sessions, key=len)]
    made_by = (
        version(*client.program) if client.program else f"{name.split('-')[1]} of Python {platform.python_version()}"
    )
    text = write(f"{made_by}: {client.about}", segments, pop3=protocol == "pop3")
    (into / f"{name}.txt").write_text(text, encoding="ascii")
    print(f"{name}: {made_by}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="recordings to make (default: all)")
    parser.add_argument(
        "--into", type=Path, default=FOLDER, metavar="FOLDER", help="output directory (default: benchmarks/traffic)"
    )
    options = parser.parse_args()
    names: list[str] = options.names
    unknown = set(names) - set(CLIENTS)
    if unknown:
        parser.error(f"no such recording: {', '.join(sorted(unknown))}")
    for name, client in CLIENTS.items():
        if names and name not in names:
            continue
        if client.program and not shutil.which(client.program[0], path=f"{os.environ['PATH']}:/usr/sbin"):
            print(f"{name}: {client.program[0]} is not installed", file=sys.stderr)
            continue
        record(name, client, options.into)


if __name__ == "__main__":
    main()
