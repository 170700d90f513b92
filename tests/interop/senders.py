"""git send-email, and Postfix's smtp-source: they only send."""

from __future__ import annotations

from tests.interop.visit import FRIEND, HOST, SENDER, Visit, program, run


def git_submit(visit: Visit, message: bytes) -> None:
    """The message goes as a patch would: in a file, with a ``From`` line on top that is not sent."""
    program("git-send-email")
    path = visit.scratch / "0001.patch"
    path.write_bytes(
        b"From 0000000000000000000000000000000000000000 Mon Sep 17 00:00:00 2001\n" + message.replace(b"\r\n", b"\n")
    )
    words = [f"--smtp-server={HOST}", f"--smtp-server-port={visit.port}", "--smtp-domain=client.test"]
    words += [f"--smtp-ssl-cert-path={visit.trusted}"]
    words += [f"--smtp-encryption={ {'clear': 'none', 'upgrade': 'tls', 'implicit': 'ssl'}[visit.way] }"]
    words += [f"--smtp-auth={visit.login}", f"--smtp-user={visit.name}", f"--smtp-pass={visit.password}"]
    words += ["--confirm=never", "--suppress-cc=all", "--no-validate", f"--from={SENDER}", f"--to={FRIEND}"]
    run("git", ["send-email", *words, str(path)], home=visit.scratch)


def smtp_source(visit: Visit, recipient: str, *, sessions: int, messages: int) -> None:
    """Send *messages* to *recipient* in so many sessions at once.  It knows neither AUTH nor TLS."""
    words = ["-s", str(sessions), "-m", str(messages), "-l", "5000", "-M", "client.test", "-f", SENDER, "-t", recipient]
    run("smtp-source", [*words, f"{HOST}:{visit.port}"], home=visit.scratch)
