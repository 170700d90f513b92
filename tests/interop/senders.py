"""git send-email, and Postfix's smtp-source: clients that only send."""

from __future__ import annotations

from tests.interop.client_config import FRIEND, HOST, SENDER, ClientConfig, program, run


def git_submit(client_config: ClientConfig, message: bytes) -> None:
    """Send the message as a patch: in a file that begins with a ``From`` line, which is not sent."""
    program("git-send-email")
    path = client_config.scratch / "0001.patch"
    path.write_bytes(
        b"From 0000000000000000000000000000000000000000 Mon Sep 17 00:00:00 2001\n" + message.replace(b"\r\n", b"\n")
    )
    words = [f"--smtp-server={HOST}", f"--smtp-server-port={client_config.port}", "--smtp-domain=client.test"]
    words += [f"--smtp-ssl-cert-path={client_config.trusted}"]
    words += [f"--smtp-encryption={ {'clear': 'none', 'upgrade': 'tls', 'implicit': 'ssl'}[client_config.tls_mode] }"]
    words += [
        f"--smtp-auth={client_config.login}",
        f"--smtp-user={client_config.name}",
        f"--smtp-pass={client_config.password}",
    ]
    words += ["--confirm=never", "--suppress-cc=all", "--no-validate", f"--from={SENDER}", f"--to={FRIEND}"]
    run("git", ["send-email", *words, str(path)], home=client_config.scratch)


def smtp_source(client_config: ClientConfig, recipient: str, *, sessions: int, messages: int) -> None:
    """Send *messages* to *recipient* in *sessions* parallel sessions.  It supports neither AUTH nor TLS."""
    words = ["-s", str(sessions), "-m", str(messages), "-l", "5000", "-M", "client.test", "-f", SENDER, "-t", recipient]
    run("smtp-source", [*words, f"{HOST}:{client_config.port}"], home=client_config.scratch)
