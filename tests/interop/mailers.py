"""s-nail and mutt: programs for a person to read and write mail in, here driven by words.

mutt wants a terminal to read in, so it gets one.
"""

from __future__ import annotations

import os
import pty
import select
import subprocess
import urllib.parse

from tests.interop.visit import BY_TOKEN, FRIEND, HOST, SENDER, CommandRejected, Visit, environment, program, run

_PATIENCE = 20  # seconds in which a program at a terminal says something or ends


def _quoted(text: str) -> str:
    return urllib.parse.quote(text, safe="")


# s-nail


def _s_nail(visit: Visit, words: list[str], said: bytes) -> bytes:
    words = ["-:/", "-S", "v15-compat", "-S", "tls-ca-no-defaults", "-S", f"tls-ca-file={visit.trusted}", *words]
    return run("s-nail", ["-S", "tls-verify=strict", "-S", "expandargs", *words], said, home=visit.scratch)


def _s_nail_read(visit: Visit, *commands: str) -> bytes:
    scheme = "pop3s" if visit.way == "implicit" else "pop3"
    url = f"{scheme}://{visit.name}:{_quoted(visit.password)}@localhost:{visit.port}"
    words = ["-S", "pop3-no-apop"] if visit.login == "USER" else []
    words += ["-S", "pop3-use-starttls"] if visit.way == "upgrade" else []
    return _s_nail(visit, [*words, "-#", "-f", url], "".join(f"{command}\n" for command in commands).encode())


def s_nail_collect(visit: Visit) -> bytes:
    path = visit.scratch / "mbox"
    _s_nail_read(visit, f"copy 1 {path}", "delete 1" if visit.delete else "", "quit")
    if not path.exists():
        raise CommandRejected("s-nail collected nothing")
    # An mbox has a line on top, one blank line below, and what the reader did as a field.
    return path.read_bytes().partition(b"\n")[2].replace(b"Status: RO\n", b"", 1).removesuffix(b"\n")


def s_nail_exits(visit: Visit) -> None:
    """Mark a message as deleted, and leave by ``exit``: it drops the connection without QUIT."""
    _s_nail_read(visit, "delete 1", "exit")


def s_nail_submit(visit: Visit, message: bytes) -> None:
    scheme = "smtps" if visit.way == "implicit" else "smtp"
    url = f"{scheme}://{visit.name}:{_quoted(visit.password)}@localhost:{visit.port}"
    words = ["-S", f"mta={url}", "-S", f"smtp-auth={visit.login.lower()}"]
    words += ["-S", "smtp-use-starttls"] if visit.way == "upgrade" else []
    _s_nail(visit, [*words, "-S", f"from={SENDER}", "-t"], message.replace(b"\r\n", b"\n"))


# mutt


def _mutt(visit: Visit, protocol: str, *lines: str) -> list[str]:
    """The words that every call begins with; URL and PASSWORD in *lines* stand for those of this visit."""
    settings = [
        f"set folder={visit.scratch}",
        f"set certificate_file={visit.trusted}",
        f"set ssl_ca_certificates_file={visit.trusted}",
    ]
    settings += ["set ssl_starttls=yes", "set ssl_force_tls=yes"] if visit.way == "upgrade" else []
    settings += ["set ssl_starttls=no", "set ssl_force_tls=no"] if visit.way == "clear" else []
    if visit.login in BY_TOKEN:
        settings += [f"set {protocol}_oauth_refresh_command='printf {visit.token}'"]
    if visit.login == "EXTERNAL":
        settings += [f"set ssl_client_cert={visit.certificate}"]
    url = f"{protocol}{'s' if visit.way == 'implicit' else ''}://{visit.name}@{HOST}:{visit.port}/"
    lines = tuple(line.replace("URL", url).replace("PASSWORD", visit.password) for line in lines)
    return ["-n", "-F", str(visit.file("muttrc", *settings, *lines))]


def mutt_collect(visit: Visit) -> bytes:
    path = visit.scratch / "message"
    words = _mutt(
        visit,
        "pop",
        *('set spoolfile="URL"', 'set pop_pass="PASSWORD"'),
        f"set pop_authenticators={visit.login.lower()}",
        *("set pipe_decode=no", "set wait_key=no", "set delete=yes", "set quit=yes", "set sleep_time=0"),
        *("set header_cache=", "set message_cachedir=", "set mark_old=no"),
        f'push "<pipe-message>cat > {path}<enter>{"<delete-message>" if visit.delete else ""}<quit>"',
    )
    said = _on_terminal("mutt", words, visit, failure=b"failed")
    if not path.exists():
        raise CommandRejected(f"mutt collected nothing: {said!r}")
    return path.read_bytes()


def mutt_submit(visit: Visit, message: bytes) -> None:
    words = _mutt(
        visit,
        "smtp",
        *('set smtp_url="URL"', 'set smtp_pass="PASSWORD"'),
        f"set smtp_authenticators={visit.login.lower()}",
        *(f"set from={SENDER}", "set use_envelope_from=yes", "set copy=no", "set hostname=client.test"),
    )
    draft = visit.scratch / "draft"
    draft.write_bytes(message.replace(b"\r\n", b"\n"))
    run("mutt", [*words, "-H", str(draft), FRIEND], home=visit.scratch)


def _on_terminal(name: str, words: list[str], visit: Visit, *, failure: bytes) -> bytes:
    """Run a program that wants a terminal to its end; what it showed.  Once *failure* is among that, it would wait."""
    ours, its = pty.openpty()
    try:
        with subprocess.Popen(
            [program(name), *words],
            stdin=its, stdout=its, stderr=its, env=environment(visit.scratch), cwd=visit.scratch,
            start_new_session=True,
        ) as process:  # fmt: skip
            os.close(its)
            its = -1
            shown = b""
            try:
                while piece := _read(ours):
                    shown += piece
                    if failure in shown:
                        raise CommandRejected(f"{name} says: {shown!r}")
                if process.wait(_PATIENCE) != 0:
                    raise CommandRejected(f"{name} ended with {process.returncode}: {shown!r}")
            except TimeoutError as error:
                raise CommandRejected(f"{name} waits for an answer: {shown!r}") from error
            finally:
                process.kill()
            return shown
    finally:
        os.close(ours)
        if its >= 0:
            os.close(its)


def _read(terminal: int) -> bytes:
    if not select.select([terminal], [], [], _PATIENCE)[0]:
        raise TimeoutError
    try:
        return os.read(terminal, 65536)
    except OSError:  # EIO: nobody has the other end any more
        return b""
