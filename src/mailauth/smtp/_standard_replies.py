"""The replies that a server gives by itself, as data: one per situation, none of them said in two places."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from .. import sasl
from .commands import Data, Mail, MessageComplete, Rcpt, StartTls
from .events import ContentFault
from .replies import Reply

ACCEPTED: Final[Mapping[type[object], Reply]] = {
    Mail: Reply(250, "2.1.0", "sender ok"),
    Rcpt: Reply(250, "2.1.5", "recipient ok"),
    Data: Reply(354, "", "end the content with <CR><LF>.<CR><LF>"),
    MessageComplete: Reply(250, "2.0.0", "message taken"),
    StartTls: Reply(220, "2.0.0", "ready for the TLS handshake"),
}
"""What ACCEPT says to each question."""

RESET: Final = Reply(250, "2.0.0", "forgotten")
NOOP: Final = Reply(250, "2.0.0", "ok")
VRFY: Final = Reply(252, "2.5.0", "not verified; send the message and see")
GOODBYE: Final = Reply(221, "2.0.0", "goodbye")
LOGGED_IN: Final = Reply(235, "2.7.0", "authentication succeeded")

ASCII_REVERSE_PATH: Final = Reply(550, "5.6.7", "a reverse-path beyond ASCII needs SMTPUTF8")
ASCII_FORWARD_PATH: Final = Reply(553, "5.6.7", "a recipient beyond ASCII needs SMTPUTF8 in MAIL")
UNKNOWN_COMMAND: Final = Reply(500, "5.5.1", "command not recognized")
LINE_TOO_LONG: Final = Reply(500, "5.5.2", "line too long")
BAD_LINE: Final = Reply(500, "5.5.2", "a command is one line of printable text that ends in CRLF")
NOT_IMPLEMENTED: Final = Reply(502, "5.5.1", "command not implemented")
BAD_SEQUENCE: Final = Reply(503, "5.5.1", "bad sequence of commands")
NO_SERVICE: Final = Reply(503, "5.5.1", "no service here; only QUIT is left")
ALREADY_LOGGED_IN: Final = Reply(503, "5.5.1", "already authenticated")
TLS_ACTIVE: Final = Reply(503, "5.5.1", "TLS is active already")
NO_MECHANISM: Final = Reply(504, "5.5.4", "this authentication mechanism is not offered here")
LOGIN_REQUIRED: Final = Reply(530, "5.7.0", "authentication required")
TLS_REQUIRED: Final = Reply(530, "5.7.0", "must issue a STARTTLS command first")
TOO_MANY_RECIPIENTS: Final = Reply(452, "4.5.3", "too many recipients")
TOO_MANY_TRANSACTIONS: Final = Reply(421, "4.7.0", "too many transactions in one session")
TOO_MANY_ERRORS: Final = Reply(421, "4.7.0", "too many errors")
TOO_MANY_JUNK_COMMANDS: Final = Reply(421, "4.7.0", "too many commands that lead nowhere")
NOT_SMTP: Final = Reply(421, "4.7.0", "this is SMTP")
TOO_MANY_LOGINS: Final = Reply(421, "4.7.0", "too many failed logins")
SHUTTING_DOWN: Final = Reply(421, "4.3.2", "service shutting down, closing the connection")
ENDLESS_CONTENT: Final = Reply(421, "4.7.0", "far more content than SIZE allows, closing the connection")
BINARY_NEEDS_BDAT: Final = Reply(503, "5.5.1", "BODY=BINARYMIME goes by BDAT, not by DATA")
TIMED_OUT: Final = Reply(421, "4.4.2", "that took too long, closing the connection")

CONTENT_FAULTS: Final[Mapping[ContentFault, Reply]] = {
    ContentFault.TOO_LARGE: Reply(552, "5.3.4", "message larger than SIZE allows"),
    ContentFault.BARE_LINE_END: Reply(554, "5.6.0", "bare CR, bare LF or NUL in the message content"),
    ContentFault.LONG_LINE: Reply(554, "5.6.0", "line too long in the message content"),
}

LOGIN_FAILURES: Final[Mapping[sasl.Refusal | sasl.Fault, Reply]] = {
    # RFC 4954 section 6; one text for every cause that has to do with who it is.
    sasl.Refusal.BAD_CREDENTIALS: Reply(535, "5.7.8", "authentication credentials invalid"),
    sasl.Refusal.NOT_AUTHORIZED: Reply(535, "5.7.8", "authentication credentials invalid"),
    sasl.Refusal.TEMPORARY: Reply(454, "4.7.0", "temporary authentication failure"),
    sasl.Refusal.TRANSITION_NEEDED: Reply(432, "4.7.12", "a password transition is needed"),
    sasl.Refusal.TOO_WEAK: Reply(534, "5.7.9", "authentication mechanism is too weak"),
    sasl.Fault.CANCELLED: Reply(501, "5.7.0", "authentication cancelled"),
    sasl.Fault.UNDECODABLE: Reply(501, "5.5.2", "cannot decode the base64 of the response"),
    sasl.Fault.UNEXPECTED_INITIAL_RESPONSE: Reply(501, "5.5.4", "this mechanism takes no initial response"),
    sasl.Fault.MALFORMED: Reply(501, "5.5.2", "the response is not what the mechanism asks for"),
    sasl.Fault.TOO_LONG: Reply(500, "5.5.6", "authentication exchange line is too long"),
}
