"""The server on a system without MD5 (FIPS mode): all mechanisms but CRAM-MD5 and APOP are available."""

from __future__ import annotations

import subprocess
import sys

from tests.serving import environment

SCRIPT = """
import hashlib, hmac
real_new, real_digest = hashlib.new, hmac.digest
def refused(*arguments, **keywords):
    raise ValueError("[digital envelope routines] unsupported")
hashlib.md5 = refused
hashlib.new = lambda name, *rest, **more: refused() if name.lower() == "md5" else real_new(name, *rest, **more)
hmac.digest = lambda key, octets, name: refused() if name == "md5" else real_digest(key, octets, name)

from mailauth import ACCEPT, NeedData, Question, Send, pop3, smtp
from mailauth_io import server
from mailauth_io.cli import config, main

serving = config.read(main.settings_of(main.build_parser().parse_args(["serve", "--legacy", "--user", "alice:secret"])))
print(*(warning for warning in serving.warnings if "MD5" in warning or "Logins" in warning), sep="\\n")
proofs = server.Authenticator(serving.stores.accounts).proofs
for machine, said in (
    (smtp.ServerConnection(serving.config.smtp_settings(proofs), entropy=bytes(32)),
        b"EHLO c\\r\\nAUTH CRAM-MD5\\r\\n"),
    (pop3.ServerConnection(serving.config.pop3_settings(proofs), entropy=bytes(32)),
        b"CAPA\\r\\nAUTH CRAM-MD5\\r\\nAPOP alice c4c9334bac560ecc979e58001b3e22fb\\r\\n"),
):
    machine.receive_data(said)
    while not isinstance(event := machine.next_event(), NeedData):
        if isinstance(event, Send):
            print(event.data.decode(), end="")
        elif isinstance(event, Question):
            machine.answer(event, ACCEPT)
"""


def test_server_without_md5_offers_the_other_mechanisms() -> None:
    """RFC 1939 section 7: a greeting without a timestamp means no APOP."""
    ran = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, env=environment(), timeout=60)
    assert ran.stderr == ""
    lines = ran.stdout.splitlines()
    assert lines[:3] == [
        "Logins without TLS are allowed: USER, SCRAM-SHA-256, SCRAM-SHA-1, PLAIN, LOGIN.",
        "CRAM-MD5 and APOP are not available: this system does not allow MD5.",
        "220 example.test ESMTP",
    ]
    assert "250-AUTH SCRAM-SHA-256 SCRAM-SHA-1 PLAIN LOGIN" in lines
    assert "SASL SCRAM-SHA-256 SCRAM-SHA-1 PLAIN LOGIN" in lines
    assert "+OK POP3 server ready" in lines
    assert [line[:7] for line in lines if line.startswith(("504", "-ERR"))] == ["504 5.5", "-ERR au", "-ERR au"]
