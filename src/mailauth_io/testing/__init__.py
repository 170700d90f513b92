"""A mail server for the tests of mail clients: SMTP and POP3 with faults on request, for pytest and without it.

docs/testing.md explains it with examples.
"""

from ..server.interceptors import DROP, PASS
from . import odd_replies
from ._certificates import CertificateKind
from ._network import Network
from ._secrets import ClearSecret
from ._stores import Clock
from .mail_server import MailServer, mail_server
from .message import Envelope, Message, StoredMessage
from .odd_replies import OddReply
from .options import OptionArguments, Options, StartTlsKind, UnusedRules
from .rules import CLOSE_WITHOUT_NOTIFY, STALL, Action, Answer, Rule
from .transcript import ConnectionTranscript, Line, Transcript

__all__ = [
    "CLOSE_WITHOUT_NOTIFY",
    "DROP",
    "PASS",
    "STALL",
    "Action",
    "Answer",
    "CertificateKind",
    "ClearSecret",
    "Clock",
    "ConnectionTranscript",
    "Envelope",
    "Line",
    "MailServer",
    "Message",
    "Network",
    "OddReply",
    "OptionArguments",
    "Options",
    "Rule",
    "StartTlsKind",
    "StoredMessage",
    "Transcript",
    "UnusedRules",
    "mail_server",
    "odd_replies",
]
