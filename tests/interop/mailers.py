"""s-nail and mutt: interactive mail programs, controlled by scripts.

mutt requires a terminal, so it runs in a pseudo-terminal.
"""

from __future__ import annotations

import os
import pty
import select
import subprocess
import urllib.parse

from tests.interop.client_config import (
    BY_TOKEN,
    FRIEND,
    HOST,
    SENDER,
    ClientConfig,
    CommandRejected,
    environment,
    program,
    run,
)

_TIMEOUT = 20  # seconds to wait for output or for the end of a program in a terminal


def _quoted(text: str) -> str:
    return urllib.parse.quote(text, safe="")


# s-nail


def _s_nail(client_config: ClientConfig, words: list[str], said: bytes) -> bytes:
    words = [
        "-:/",
        "-S",
        "v15-compat",
        "-S",
        "tls-ca-no-defaults",
        "-S",
        f"tls-ca-file={client_config.trusted}",
        *words,
    ]
    return run("s-nail", ["-S", "tls-verify=strict", "-S", "expandargs", *words], said, home=client_config.scratch)


def _s_nail_read(client_config: ClientConfig, *commands: str) -> bytes:
    scheme = "pop3s" if client_config.tls_mode == "implicit" else "pop3"
    url = f"{scheme}://{client_config.name}:{_quoted(client_config.password)}@localhost:{client_config.port}"
    words = ["-S", "pop3-no-apop"] if client_config.login == "USER" else []
    words += ["-S", "pop3-use-starttls"] if client_config.tls_mode == "upgrade" else []
    return _s_nail(client_config, [*words, "-#", "-f", url], "".join(f"{command}\n" for command in commands).encode())


def s_nail_collect(client_config: ClientConfig) -> bytes:
    path = client_config.scratch / "mbox"
    _s_nail_read(client_config, f"copy 1 {path}", "delete 1" if client_config.delete else "", "quit")
    if not path.exists():
        raise CommandRejected("s-nail collected nothing")
    # An mbox entry has a line above it, an empty line below it, and a field with its status.
    return path.read_bytes().partition(b"\n")[2].replace(b"Status: RO\n", b"", 1).removesuffix(b"\n")


def s_nail_exits(client_config: ClientConfig) -> None:
    """Mark a message as deleted and use ``exit``, which disconnects without QUIT."""
    _s_nail_read(client_config, "delete 1", "exit")


def s_nail_submit(client_config: ClientConfig, message: bytes) -> None:
    scheme = "smtps" if client_config.tls_mode == "implicit" else "smtp"
    url = f"{scheme}://{client_config.name}:{_quoted(client_config.password)}@localhost:{client_config.port}"
    words = ["-S", f"mta={url}", "-S", f"smtp-auth={client_config.login.lower()}"]
    words += ["-S", "smtp-use-starttls"] if client_config.tls_mode == "upgrade" else []
    _s_nail(client_config, [*words, "-S", f"from={SENDER}", "-t"], message.replace(b"\r\n", b"\n"))


# mutt


def _mutt(client_config: ClientConfig, protocol: str, *lines: str) -> list[str]:
    """Return the first arguments of every call; URL and PASSWORD in *lines* stand for those of *client_config*."""
    settings = [
        f"set folder={client_config.scratch}",
        f"set certificate_file={client_config.trusted}",
        f"set ssl_ca_certificates_file={client_config.trusted}",
    ]
    settings += ["set ssl_starttls=yes", "set ssl_force_tls=yes"] if client_config.tls_mode == "upgrade" else []
    settings += ["set ssl_starttls=no", "set ssl_force_tls=no"] if client_config.tls_mode == "clear" else []
    if client_config.login in BY_TOKEN:
        settings += [f"set {protocol}_oauth_refresh_command='printf {client_config.token}'"]
    if client_config.login == "EXTERNAL":
        settings += [f"set ssl_client_cert={client_config.certificate}"]
    url = f"{protocol}{'s' if client_config.tls_mode == 'implicit' else ''}://{client_config.name}@{HOST}:{client_config.port}/"
    lines = tuple(line.replace("URL", url).replace("PASSWORD", client_config.password) for line in lines)
    return ["-n", "-F", str(client_config.file("muttrc", *settings, *lines))]


def mutt_collect(client_config: ClientConfig) -> bytes:
    path = client_config.scratch / "message"
    words = _mutt(
        client_config,
        "pop",
        *('set spoolfile="URL"', 'set pop_pass="PASSWORD"'),
        f"set pop_authenticators={client_config.login.lower()}",
        *("set pipe_decode=no", "set wait_key=no", "set delete=yes", "set quit=yes", "set sleep_time=0"),
        *("set header_cache=", "set message_cachedir=", "set mark_old=no"),
        f'push "<pipe-message>cat > {path}<enter>{"<delete-message>" if client_config.delete else ""}<quit>"',
    )
    said = _on_terminal("mutt", words, client_config, failure=b"failed")
    if not path.exists():
        raise CommandRejected(f"mutt collected nothing: {said!r}")
    return path.read_bytes()


def mutt_submit(client_config: ClientConfig, message: bytes) -> None:
    words = _mutt(
        client_config,
        "smtp",
        *('set smtp_url="URL"', 'set smtp_pass="PASSWORD"'),
        f"set smtp_authenticators={client_config.login.lower()}",
        *(f"set from={SENDER}", "set use_envelope_from=yes", "set copy=no", "set hostname=client.test"),
    )
    draft = client_config.scratch / "draft"
    draft.write_bytes(message.replace(b"\r\n", b"\n"))
    run("mutt", [*words, "-H", str(draft), FRIEND], home=client_config.scratch)


def _on_terminal(name: str, words: list[str], client_config: ClientConfig, *, failure: bytes) -> bytes:
    """Run a program in a terminal and return its output.  Ends it at *failure*, after which it would wait for input."""
    ours, its = pty.openpty()
    try:
        with subprocess.Popen(
            [program(name), *words],
            stdin=its, stdout=its, stderr=its, env=environment(client_config.scratch), cwd=client_config.scratch,
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
                if process.wait(_TIMEOUT) != 0:
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
    if not select.select([terminal], [], [], _TIMEOUT)[0]:
        raise TimeoutError
    try:
        return os.read(terminal, 65536)
    except OSError:  # EIO: the other end is closed
        return b""
