"""fetchmail and getmail: they collect a whole maildrop and hand it on."""

from __future__ import annotations

from tests.interop.visit import Visit, run


def fetchmail_collect(visit: Visit) -> bytes:
    fetchmail(visit)
    return (visit.scratch / "message").read_bytes()


def fetchmail(visit: Visit) -> bytes:
    """Collect all messages; what it said and heard meanwhile."""
    collected = visit.scratch / "message"
    words = ["poll localhost", f"service {visit.port}", f"protocol {'APOP' if visit.login == 'APOP' else 'POP3'}"]
    words += ["uidl", "no dns", "timeout 30"]
    if visit.login != "APOP":
        words += [f"auth {'password' if visit.login == 'USER' else visit.login.lower()}"]
    words += [f'user "{visit.name}"', f'password "{visit.password}"', "nokeep" if visit.delete else "keep"]
    words += ["no rewrite", "no mimedecode", f'mda "cat > {collected}"']
    if visit.way == "clear":
        words += ['sslproto ""']
    else:
        words += [f"sslcertck sslcertfile {visit.trusted}", 'sslproto "TLS1.2+"']
        words += ["ssl"] if visit.way == "implicit" else []
    configuration = visit.file("fetchmailrc", " ".join(words))
    files = ["--pidfile", f"{visit.scratch}/pid", "--idfile", f"{visit.scratch}/ids"]
    return run("fetchmail", ["-v", "--invisible", "--nosyslog", "-f", str(configuration), *files], home=visit.scratch)


def getmail_collect(visit: Visit) -> bytes:
    """It asks for LIST and UIDL and wants both; it knows no STLS."""
    collected = visit.scratch / "message"
    retriever = "SimplePOP3SSLRetriever" if visit.way == "implicit" else "SimplePOP3Retriever"
    configuration = visit.file(
        "getmailrc",
        *("[retriever]", f"type = {retriever}", "server = localhost", f"port = {visit.port}"),
        *(f"username = {visit.name}", f"password = {visit.password}", f"use_apop = {visit.login == 'APOP'}"),
        *([f"ca_certs = {visit.trusted}"] if visit.way == "implicit" else []),
        *("[destination]", "type = MDA_external", "path = /bin/sh", f"arguments = ('-c', 'cat > {collected}')"),
        "allow_root_commands = true",  # into a Maildir it would write as anyone but root
        *("[options]", "delivered_to = false", "received = false", f"delete = {visit.delete}"),
    )
    run("getmail", ["--getmaildir", str(visit.scratch), "--rcfile", str(configuration)], home=visit.scratch)
    return collected.read_bytes().removeprefix(b"Return-Path: <unknown>\n")  # it hands messages on with an envelope
