r"""Odd replies of POP3 servers, by the step at which they occur.

For example:

    @pytest.mark.parametrize("odd", odd_replies.pop3.ALL.values(), ids=lambda odd: odd.name)
    def test_client_does_not_hang(odd, mail_server):
        mail_server.on(odd.step).reply(odd).optional()
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from mailauth.pop3 import Auth, Capa, Connected, Dele, List, Noop, Pass, Quit, Retrieve, Rset, Stat, Stls, Uidl, User

from ._odd_reply import OddReply, by_name

__all__ = [
    "ALL",
    "AUTH_CHALLENGE_NOT_IN_BASE64",
    "AUTH_PROMPT_WITHOUT_SPACE",
    "AUTH_PROMPT_WITH_FREE_TEXT",
    "AUTH_PROMPT_WITH_OK",
    "CAPA_IN_LOWER_CASE",
    "CAPA_NOT_TERMINATED",
    "CAPA_ONLY_STATUS",
    "CAPA_REFUSED_WITHOUT_TEXT",
    "CAPA_WITH_BLANKS",
    "CAPA_WITH_DOT_BEFORE_A_NAME",
    "CAPA_WITH_EMPTY_LINES",
    "CAPA_WITH_LF",
    "CAPA_WITH_SASL_TWICE",
    "DELE_WITHOUT_TEXT",
    "GREETING_AFTER_AN_EMPTY_LINE",
    "GREETING_IN_LATIN_1",
    "GREETING_IN_LOWER_CASE",
    "GREETING_OF_100_KB",
    "GREETING_OF_HTTP",
    "GREETING_OF_IMAP",
    "GREETING_OF_SMTP",
    "GREETING_OF_TLS",
    "GREETING_REFUSED",
    "GREETING_WITHOUT_SPACE",
    "GREETING_WITHOUT_TEXT",
    "GREETING_WITH_BARE_CR",
    "GREETING_WITH_LF",
    "GREETING_WITH_NAME_IN_BRACKETS",
    "GREETING_WITH_OPEN_BRACKET",
    "GREETING_WITH_TIMESTAMP_FIRST",
    "GREETING_WITH_TIMESTAMP_IN_UTF_8",
    "GREETING_WITH_TIMESTAMP_WITHOUT_BRACKETS",
    "GREETING_WITH_TOKEN",
    "GREETING_WITH_TWO_TIMESTAMPS",
    "LIST_NOT_TERMINATED",
    "LIST_OF_AN_EMPTY_MAILDROP_REFUSED",
    "LIST_WITH_NEGATIVE_SIZE",
    "LIST_WITH_TEXT_AFTER_THE_SIZE",
    "NOOP_AFTER_AN_EMPTY_LINE",
    "NOOP_AFTER_A_TLS_RECORD",
    "NOOP_ANSWERED_BY_AUTOLOGOUT",
    "NOOP_WITH_LONG_TEXT",
    "PASS_REFUSED_IN_GBK",
    "PASS_REFUSED_WITHOUT_TEXT",
    "PASS_REFUSED_WITH_PLUS",
    "PASS_REFUSED_WITH_TEXT_IN_BRACKETS",
    "PASS_REFUSED_WITH_UNKNOWN_CODE",
    "QUIT_WITH_ERROR",
    "QUIT_WITH_LF",
    "RETR_NOT_TERMINATED",
    "RETR_OF_AN_EMPTY_MESSAGE",
    "RETR_REFUSED_WITH_UNKNOWN_CODE",
    "RETR_WITHOUT_DOT_STUFFING",
    "RETR_WITH_DOT_AND_CR",
    "RETR_WITH_EMPTY_LINE_AT_THE_END",
    "RETR_WITH_ERROR_IN_THE_MESSAGE",
    "RETR_WITH_LF",
    "RETR_WITH_LONG_LINE",
    "RETR_WITH_NUL",
    "RETR_WITH_WRONG_SIZE",
    "RSET_IN_LINES",
    "STAT_TWICE",
    "STAT_WITHOUT_NUMBERS",
    "STAT_WITH_MORE_FIELDS",
    "STAT_WITH_NEGATIVE_NUMBERS",
    "STAT_WITH_TEXT",
    "STLS_REFUSED",
    "STLS_WITH_TEXT_AFTER_IT",
    "TOP_WITH_WHOLE_MESSAGE",
    "UIDL_REFUSED",
    "UIDL_WITHOUT_ID",
    "UIDL_WITH_EQUAL_IDS",
    "UIDL_WITH_LONG_ID",
    "UIDL_WITH_OTHER_CHARACTERS",
    "UIDL_WITH_SPACES",
    "UIDL_WITH_TAB",
    "USER_UNKNOWN",
    "USER_WITHOUT_TEXT",
]

_MESSAGE = b"Subject: lunch\r\n\r\nAt noon?\r\n"

# The greeting

GREETING_WITHOUT_TEXT: Final = OddReply(
    name="GREETING_WITHOUT_TEXT",
    step=Connected,
    data=b"+OK\r\n",
    meaning="From small servers.  A client accepts a status alone (RFC 1939 section 3).  Without a timestamp there is"
    " no APOP.",
)
GREETING_IN_LOWER_CASE: Final = OddReply(
    name="GREETING_IN_LOWER_CASE",
    step=Connected,
    data=b"+ok POP3 ready\r\n",
    meaning="From scripts.  RFC 1939 section 3 requires upper case.  Some clients accept it; a strict one reports"
    " that it is not a reply.",
)
GREETING_WITHOUT_SPACE: Final = OddReply(
    name="GREETING_WITHOUT_SPACE",
    step=Connected,
    data=b"+OKready\r\n",
    meaning="From scripts.  The status is a word of its own, so this is another word: a strict client reports that it"
    " is not a reply; clients that compare three bytes accept it.",
)
GREETING_AFTER_AN_EMPTY_LINE: Final = OddReply(
    name="GREETING_AFTER_AN_EMPTY_LINE",
    step=Connected,
    data=b"\r\n+OK POP3 ready\r\n",
    meaning="From scripts and proxies that add line ends.  A tolerant client skips some empty lines where a reply"
    " begins.",
)
GREETING_WITH_TIMESTAMP_FIRST: Final = OddReply(
    name="GREETING_WITH_TIMESTAMP_FIRST",
    step=Connected,
    data=b"+OK <1896.697170952@pop.example> POP3 ready\r\n",
    meaning="From servers that do not follow the example in RFC 1939, which has the timestamp at the end.  A client"
    " searches the whole text for it, and can use APOP.",
)
GREETING_WITH_NAME_IN_BRACKETS: Final = OddReply(
    name="GREETING_WITH_NAME_IN_BRACKETS",
    step=Connected,
    data=b"+OK POP3 server ready <pop.example.test>\r\n",
    meaning="From servers with a host name in angle brackets.  It has no @, so it is not a msg-id (RFC 1939 section"
    " 7): there is no APOP.  Clients that try APOP fail to log in.",
)
GREETING_WITH_TIMESTAMP_WITHOUT_BRACKETS: Final = OddReply(
    name="GREETING_WITH_TIMESTAMP_WITHOUT_BRACKETS",
    step=Connected,
    data=b"+OK POP3 ready 1462299066.1311785279@pop.example\r\n",
    meaning="From a provider with a proxy in front of Zimbra.  Without angle brackets it is not a timestamp (RFC 1939"
    " section 7): a client does not use APOP.",
)
GREETING_WITH_OPEN_BRACKET: Final = OddReply(
    name="GREETING_WITH_OPEN_BRACKET",
    step=Connected,
    data=b"+OK POP3 ready <1896.697170952@pop.example\r\n",
    meaning="From servers that cut a long greeting.  Without the closing bracket there is no timestamp: a client does"
    " not use APOP.",
)
GREETING_WITH_TWO_TIMESTAMPS: Final = OddReply(
    name="GREETING_WITH_TWO_TIMESTAMPS",
    step=Connected,
    data=b"+OK <1.2@proxy.example> <3.4@pop.example>\r\n",
    meaning="From proxies that pass on the greeting of the server in their own.  Two clients could choose different"
    " ones: a strict client does not use APOP.",
)
GREETING_WITH_TIMESTAMP_IN_UTF_8: Final = OddReply(
    name="GREETING_WITH_TIMESTAMP_IN_UTF_8",
    step=Connected,
    data="+OK POP3 ready <1896.697170952@büro.example>\r\n".encode(),
    meaning="From servers with a host name that is not ASCII, and from an attacker: bytes outside a msg-id help to"
    " recover the password from APOP (CVE-2007-1558).  A client does not use APOP.",
)
GREETING_WITH_TOKEN: Final = OddReply(
    name="GREETING_WITH_TOKEN",
    step=Connected,
    data=b"+OK The Microsoft Exchange POP3 service is ready. [UABPAFAALgBFAFgAQQBNAFAATABFAA==]\r\n",
    meaning="From Exchange Online: the name of the server in base64, at the end.  A client takes it as text; a"
    " response code would be at the start (RFC 2449 section 8).",
)
GREETING_REFUSED: Final = OddReply(
    name="GREETING_REFUSED",
    step=Connected,
    data=b"-ERR [SYS/TEMP] too many connections from 192.0.2.1\r\n",
    meaning="From servers with a limit of connections; the connection is then closed.  The client tries again later.",
)
GREETING_IN_LATIN_1: Final = OddReply(
    name="GREETING_IN_LATIN_1",
    step=Connected,
    data="+OK Serveur prêt, bienvenue à tous\r\n".encode("latin-1"),
    meaning="From servers with a localized text.  It is not ASCII and not UTF-8; a client must not fail to decode it.",
)
GREETING_WITH_LF: Final = OddReply(
    name="GREETING_WITH_LF",
    step=Connected,
    data=b"+OK POP3 ready\n",
    meaning="From scripts with the line ends of Unix.  Only CRLF ends a line (RFC 1939 section 3): a strict client"
    " waits for it until its timeout, and others accept the line.",
)
GREETING_WITH_BARE_CR: Final = OddReply(
    name="GREETING_WITH_BARE_CR",
    step=Connected,
    data=b"+OK POP3\rready\r\n",
    meaning="From servers that take the text from a file with old line ends.  A client that ends lines at CR sees"
    " two; others replace the CR.",
)
GREETING_OF_100_KB: Final = OddReply(
    name="GREETING_OF_100_KB",
    step=Connected,
    data=b"+OK " + b"x" * 102_394 + b"\r\n",
    meaning="From a port that is not POP3, or from an attacker: one line of 102,400 bytes.  A client ends the"
    " connection at a limit, and keeps no more than that in memory.",
)
GREETING_OF_SMTP: Final = OddReply(
    name="GREETING_OF_SMTP",
    step=Connected,
    data=b"220 mx.example ESMTP\r\n",
    meaning="From an SMTP server at the port, after a mistake in a configuration.  The client reports that it is not"
    " POP3.",
)
GREETING_OF_IMAP: Final = OddReply(
    name="GREETING_OF_IMAP",
    step=Connected,
    data=b"* OK IMAP4rev1 server ready\r\n",
    meaning="From an IMAP server at the port.  The client reports that it is not POP3.",
)
GREETING_OF_HTTP: Final = OddReply(
    name="GREETING_OF_HTTP",
    step=Connected,
    data=b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
    meaning="From a web server or an HTTP proxy at the port.  The client reports that it is not POP3.",
)
GREETING_OF_TLS: Final = OddReply(
    name="GREETING_OF_TLS",
    step=Connected,
    data=b"\x15\x03\x01\x00\x02\x02\x46",
    meaning="From a port with implicit TLS: an alert record, here protocol_version, and no line end.  A client"
    " without TLS waits until its timeout, or reports that the port needs TLS.",
)

# The response to CAPA

CAPA_REFUSED_WITHOUT_TEXT: Final = OddReply(
    name="CAPA_REFUSED_WITHOUT_TEXT",
    step=Capa,
    data=b"-ERR\r\n",
    meaning="From servers older than RFC 2449.  The client goes on with USER and PASS, or APOP.",
)
CAPA_NOT_TERMINATED: Final = OddReply(
    name="CAPA_NOT_TERMINATED",
    step=Capa,
    data=b"+OK\r\nTOP\r\nUIDL\r\nUSER\r\n",
    meaning="From small servers that leave out the final dot, or send it in a later packet.  The client waits for it"
    " until its timeout.",
)
CAPA_ONLY_STATUS: Final = OddReply(
    name="CAPA_ONLY_STATUS",
    step=Capa,
    data=b"+OK no capabilities\r\n",
    meaning="From servers that reply +OK to a command which they do not know.  A client that reads lines after it"
    " waits until its timeout.",
)
CAPA_WITH_LF: Final = OddReply(
    name="CAPA_WITH_LF",
    step=Capa,
    data=b"+OK\r\nTOP\nUIDL\nUSER\n.\n",
    meaning="From scripts that read the list from a file.  Only CRLF ends a line: a strict client waits until its"
    " timeout.",
)
CAPA_WITH_BLANKS: Final = OddReply(
    name="CAPA_WITH_BLANKS",
    step=Capa,
    data=b"+OK \r\nTOP \r\n UIDL\r\nSASL\tPLAIN  LOGIN \r\n.\r\n",
    meaning="From old servers and appliances: blanks around and between words, and a tab.  A tolerant client ignores"
    " them.",
)
CAPA_WITH_EMPTY_LINES: Final = OddReply(
    name="CAPA_WITH_EMPTY_LINES",
    step=Capa,
    data=b"+OK\r\n\r\nTOP\r\n\r\nUIDL\r\n.\r\n",
    meaning="From servers in which a capability is disabled but its line is written.  A client ignores lines without"
    " a name; they do not end the list.",
)
CAPA_IN_LOWER_CASE: Final = OddReply(
    name="CAPA_IN_LOWER_CASE",
    step=Capa,
    data=b"+OK\r\ntop\r\nuidl\r\nsasl plain\r\n.\r\n",
    meaning="From small servers.  Names of capabilities are not case-sensitive (RFC 2449); a client finds them all.",
)
CAPA_WITH_SASL_TWICE: Final = OddReply(
    name="CAPA_WITH_SASL_TWICE",
    step=Capa,
    data=b"+OK\r\nSASL PLAIN\r\nUSER\r\nSASL LOGIN\r\n.\r\n",
    meaning="From servers with plug-ins, one of which adds a line.  The client offers the mechanisms of both lines.",
)
CAPA_WITH_DOT_BEFORE_A_NAME: Final = OddReply(
    name="CAPA_WITH_DOT_BEFORE_A_NAME",
    step=Capa,
    data=b"+OK\r\n..EXAMPLE\r\nUIDL\r\n.\r\n",
    meaning="From servers with names of their own: a line with dot-stuffing (RFC 1939 section 3).  Only a dot alone"
    " ends the list; clients that look at the first byte miss the rest.",
)

# The reply to STLS

STLS_WITH_TEXT_AFTER_IT: Final = OddReply(
    name="STLS_WITH_TEXT_AFTER_IT",
    step=Stls,
    data=b"+OK begin TLS\r\n+OK\r\nUSER\r\n.\r\n",
    meaning="From an attacker in the network, who answers the CAPA that follows the handshake.  The client must not"
    " read it inside TLS: it discards it, or ends the connection.",
)
STLS_REFUSED: Final = OddReply(
    name="STLS_REFUSED",
    step=Stls,
    data=b"-ERR TLS is active already\r\n",
    meaning="From servers with a key that cannot be read, or that believe TLS is active, although STLS is listed.  A"
    " client that requires TLS gives up; none sends a password in clear text.",
)

# The replies to a login

USER_WITHOUT_TEXT: Final = OddReply(
    name="USER_WITHOUT_TEXT",
    step=User,
    data=b"+OK\r\n",
    meaning="From Dovecot and many others.  A client sends PASS; it must not require text.",
)
USER_UNKNOWN: Final = OddReply(
    name="USER_UNKNOWN",
    step=User,
    data=b"-ERR sorry, no mailbox for alice here\r\n",
    meaning="From servers that tell at USER whether an account exists (RFC 1939 section 7 allows it).  The login is"
    " refused; the client does not send PASS.",
)
PASS_REFUSED_WITH_PLUS: Final = OddReply(
    name="PASS_REFUSED_WITH_PLUS",
    step=Pass,
    data=b"+ERR cannot read the folder\r\n",
    meaning="From hMailServer, until it was corrected in 2026.  It is neither +OK nor -ERR; a client reports an"
    " error.  One that looks at the first byte believes that it is logged in.",
)
PASS_REFUSED_WITH_UNKNOWN_CODE: Final = OddReply(
    name="PASS_REFUSED_WITH_UNKNOWN_CODE",
    step=Pass,
    data=b"-ERR [X-BLOCKED/WEB] log in to the web site first\r\n",
    meaning="From providers with codes of their own.  A client that does not know the code treats it as none, and"
    " shows the text.",
)
PASS_REFUSED_WITH_TEXT_IN_BRACKETS: Final = OddReply(
    name="PASS_REFUSED_WITH_TEXT_IN_BRACKETS",
    step=Pass,
    data=b"-ERR [login failed] wrong password\r\n",
    meaning="From servers that do not know RFC 2449.  A response code has no spaces, so a client takes it as text.",
)
PASS_REFUSED_WITHOUT_TEXT: Final = OddReply(
    name="PASS_REFUSED_WITHOUT_TEXT",
    step=Pass,
    data=b"-ERR\r\n",
    meaning="From small servers.  The login is refused; a client cannot say why, and must not require text.",
)
PASS_REFUSED_IN_GBK: Final = OddReply(
    name="PASS_REFUSED_IN_GBK",
    step=Pass,
    data="-ERR 密码错误\r\n".encode("gbk"),
    meaning="From Chinese providers.  The text is neither ASCII nor UTF-8; a client reports that the login was"
    " refused, and must not fail to decode it.",
)
AUTH_PROMPT_WITHOUT_SPACE: Final = OddReply(
    name="AUTH_PROMPT_WITHOUT_SPACE",
    step=Auth,
    data=b"+\r\n",
    meaning="From small servers, for an empty challenge.  RFC 5034 section 4 requires a space; a tolerant client"
    " accepts it.",
)
AUTH_PROMPT_WITH_FREE_TEXT: Final = OddReply(
    name="AUTH_PROMPT_WITH_FREE_TEXT",
    step=Auth,
    data=b"+ go ahead\r\n",
    meaning="From small servers, where PLAIN has an empty challenge.  It is not base64.  A tolerant client accepts it"
    " before its first response.",
)
AUTH_PROMPT_WITH_OK: Final = OddReply(
    name="AUTH_PROMPT_WITH_OK",
    step=Auth,
    data=b"+OK\r\n",
    challenge=True,
    meaning="From Exchange 2003, where + is due.  It says that the login has succeeded, although no password was"
    " sent: a client must not believe it, and ends the connection.",
)
AUTH_CHALLENGE_NOT_IN_BASE64: Final = OddReply(
    name="AUTH_CHALLENGE_NOT_IN_BASE64",
    step=Auth,
    data=b"+ <1896.697170952@pop.example>\r\n",
    meaning="From small servers, for CRAM-MD5.  Here the challenge has a meaning, and two clients could read it"
    " differently: a client cancels the login (RFC 5034 section 4).",
)

# The responses in a session

STAT_WITH_MORE_FIELDS: Final = OddReply(
    name="STAT_WITH_MORE_FIELDS",
    step=Stat,
    data=b"+OK 2 320 0 0\r\n",
    meaning="From servers with counts of their own.  RFC 1939 section 5 discourages it; a client reads two numbers"
    " and ignores the rest.",
)
STAT_WITH_TEXT: Final = OddReply(
    name="STAT_WITH_TEXT",
    step=Stat,
    data=b"+OK 2 320 octets in your maildrop\r\n",
    meaning="From servers that add words for human readers.  A client reads two numbers and ignores the rest.",
)
STAT_WITHOUT_NUMBERS: Final = OddReply(
    name="STAT_WITHOUT_NUMBERS",
    step=Stat,
    data=b"+OK\r\n",
    meaning="From servers that reply the same to every command.  A client uses LIST, or reports an error; it must not"
    " take it for an empty maildrop.",
)
STAT_WITH_NEGATIVE_NUMBERS: Final = OddReply(
    name="STAT_WITH_NEGATIVE_NUMBERS",
    step=Stat,
    data=b"+OK 2 -2147483328\r\n",
    meaning="From servers whose sum does not fit in 32 bits.  A client ignores the size or reports an error; it must"
    " not reserve memory by it.",
)
STAT_TWICE: Final = OddReply(
    name="STAT_TWICE",
    step=Stat,
    data=b"+OK 2 320\r\n+OK 2 320\r\n",
    meaning="From proxies that add a reply of their own.  The second one must not become the reply to the next"
    " command, such as DELE: a client ends the connection.",
)
LIST_WITH_TEXT_AFTER_THE_SIZE: Final = OddReply(
    name="LIST_WITH_TEXT_AFTER_THE_SIZE",
    step=List,
    data=b"+OK 2 messages\r\n1 120 octets\r\n2 200 octets\r\n.\r\n",
    meaning="From servers that add words for human readers.  RFC 1939 section 5 discourages it; a client reads two"
    " numbers and ignores the rest.",
)
LIST_WITH_NEGATIVE_SIZE: Final = OddReply(
    name="LIST_WITH_NEGATIVE_SIZE",
    step=List,
    data=b"+OK\r\n1 -1\r\n2 200\r\n.\r\n",
    meaning="From servers that could not read a message.  A client takes the size as unknown.",
)
LIST_NOT_TERMINATED: Final = OddReply(
    name="LIST_NOT_TERMINATED",
    step=List,
    data=b"+OK 0 messages\r\n",
    meaning="From servers that leave out the final dot if there is no message.  The client waits until its timeout.",
)
LIST_OF_AN_EMPTY_MAILDROP_REFUSED: Final = OddReply(
    name="LIST_OF_AN_EMPTY_MAILDROP_REFUSED",
    step=List,
    data=b"-ERR no messages\r\n",
    meaning="From servers that treat an empty list as an error.  RFC 1939 section 5 requires +OK and a dot.  A client"
    " may ask STAT.",
)
UIDL_WITH_TAB: Final = OddReply(
    name="UIDL_WITH_TAB",
    step=Uidl,
    data=b"+OK\r\n1\twhqtswO00WBw418f9t5JxYwZ\r\n2\tQhdPYR:00WBw1Ph7x7\r\n.\r\n",
    meaning="From servers that separate columns by tabs.  A tolerant client splits at any blank.",
)
UIDL_WITH_SPACES: Final = OddReply(
    name="UIDL_WITH_SPACES",
    step=Uidl,
    data=b"+OK\r\n1   whqtswO00WBw418f9t5JxYwZ\r\n2   QhdPYR:00WBw1Ph7x7 \r\n.\r\n",
    meaning="From servers that align columns; K-9 Mail was changed for one.  A tolerant client splits at any number"
    " of spaces.",
)
UIDL_WITH_LONG_ID: Final = OddReply(
    name="UIDL_WITH_LONG_ID",
    step=Uidl,
    data=b"+OK\r\n1 " + b"a" * 200 + b"\r\n2 " + b"a" * 199 + b"b\r\n.\r\n",
    meaning="From servers that use a file name or a Message-ID: 200 characters, where RFC 1939 section 7 allows 70."
    "  A client must not cut them, since these differ at the end.",
)
UIDL_WITH_OTHER_CHARACTERS: Final = OddReply(
    name="UIDL_WITH_OTHER_CHARACTERS",
    step=Uidl,
    data="+OK\r\n1 café\r\n2 cafè\r\n.\r\n".encode(),
    meaning="From servers that use a file name.  RFC 1939 section 7 allows printable ASCII.  A client must keep them"
    " apart: with replaced characters they would be one message.",
)
UIDL_WITH_EQUAL_IDS: Final = OddReply(
    name="UIDL_WITH_EQUAL_IDS",
    step=Uidl,
    data=b"+OK\r\n1 5d41402abc4b2a76\r\n2 5d41402abc4b2a76\r\n.\r\n",
    meaning="From servers that use a hash of the content, for copies of a message (RFC 1939 section 7 mentions it)."
    "  A client that deletes by unique-id must not lose one that it has not retrieved.",
)
UIDL_WITHOUT_ID: Final = OddReply(
    name="UIDL_WITHOUT_ID",
    step=Uidl,
    data=b"+OK\r\n1\r\n2 QhdPYR:00WBw1Ph7x7\r\n.\r\n",
    meaning="From servers with a message that has none yet.  A client retrieves it without remembering it, and must"
    " not fail for the others.",
)
UIDL_REFUSED: Final = OddReply(
    name="UIDL_REFUSED",
    step=Uidl,
    data=b"-ERR Unknown command\r\n",
    meaning="From small servers: UIDL is optional (RFC 1939 section 7).  A client that keeps mail on the server has"
    " no safe way to know which messages are new.",
)
RETR_WITHOUT_DOT_STUFFING: Final = OddReply(
    name="RETR_WITHOUT_DOT_STUFFING",
    step=Retrieve,
    data=b"+OK\r\nSubject: dots\r\n\r\n.hidden\r\n.\r\nafter the dot\r\n.\r\n",
    meaning="From Mailpit and GreenMail in older versions.  The message ends at its first line with only a dot, and"
    " another line loses its dot.  The rest would be read as replies: a client ends the connection.",
)
RETR_NOT_TERMINATED: Final = OddReply(
    name="RETR_NOT_TERMINATED",
    step=Retrieve,
    data=b"+OK 28 octets\r\n" + _MESSAGE,
    meaning="From servers that fail while they read a message.  The message is not complete: the client waits until"
    " its timeout, and does not delete it.",
)
RETR_WITH_DOT_AND_CR: Final = OddReply(
    name="RETR_WITH_DOT_AND_CR",
    step=Retrieve,
    data=b"+OK\r\n" + _MESSAGE + b".\r",
    meaning="From Cyrus IMAP 3.4, seen with some messages: the LF of the final dot is missing.  The client waits"
    " until its timeout.",
)
RETR_WITH_LF: Final = OddReply(
    name="RETR_WITH_LF",
    step=Retrieve,
    data=b"+OK\r\nSubject: lunch\n\nAt noon?\n.\nBob\n\r\n.\r\n",
    meaning="From servers that send the file as it is stored.  Only CRLF.CRLF ends a message: a client that ends it"
    " at LF.LF reads the rest as replies.",
)
RETR_WITH_EMPTY_LINE_AT_THE_END: Final = OddReply(
    name="RETR_WITH_EMPTY_LINE_AT_THE_END",
    step=Retrieve,
    data=b"+OK 28 octets\r\n" + _MESSAGE + b"\r\n.\r\n",
    meaning="From servers that always write CRLF before the final dot.  The message is longer than LIST says; a"
    " client must not count bytes to find its end.",
)
RETR_WITH_WRONG_SIZE: Final = OddReply(
    name="RETR_WITH_WRONG_SIZE",
    step=Retrieve,
    data=b"+OK 7 octets\r\n" + _MESSAGE + b".\r\n",
    meaning="From servers that count LF as one byte, or a compressed file.  A client reads to the final dot, and not"
    " as many bytes as the text says.",
)
RETR_OF_AN_EMPTY_MESSAGE: Final = OddReply(
    name="RETR_OF_AN_EMPTY_MESSAGE",
    step=Retrieve,
    data=b"+OK 0 octets\r\n.\r\n",
    meaning="From servers with an empty file in the maildrop.  The message is complete; a client must not"
    " require a header.",
)
RETR_WITH_ERROR_IN_THE_MESSAGE: Final = OddReply(
    name="RETR_WITH_ERROR_IN_THE_MESSAGE",
    step=Retrieve,
    data=b"+OK\r\nSubject: lunch\r\n-ERR [SYS/TEMP] read error\r\n.\r\n",
    meaning="From servers that fail while they send a message.  After +OK it is a line of the message; a client"
    " cannot know that it is not.",
)
RETR_WITH_NUL: Final = OddReply(
    name="RETR_WITH_NUL",
    step=Retrieve,
    data=b"+OK\r\nSubject: lunch\r\n\r\nAt\0noon?\r\n.\r\n",
    meaning="From servers that accept any content.  A client keeps the bytes, and must not end the text at NUL.",
)
RETR_WITH_LONG_LINE: Final = OddReply(
    name="RETR_WITH_LONG_LINE",
    step=Retrieve,
    data=b"+OK\r\nSubject: lunch\r\n\r\n" + b"x" * 20_000 + b"\r\n.\r\n",
    meaning="From servers with messages of programs that do not wrap lines: 20,000 bytes, where RFC 5322 section"
    " 2.1.1 allows 998.  It is content, to which a client does not apply its limit for replies (poplib has one of"
    " 2,048 bytes).",
)
RETR_REFUSED_WITH_UNKNOWN_CODE: Final = OddReply(
    name="RETR_REFUSED_WITH_UNKNOWN_CODE",
    step=Retrieve,
    data=b"-ERR [X-VIRUS] message is infected\r\n",
    meaning="From filters.  A client that does not know the code treats it as none, and goes on with the next message.",
)
TOP_WITH_WHOLE_MESSAGE: Final = OddReply(
    name="TOP_WITH_WHOLE_MESSAGE",
    step=Retrieve,
    data=b"+OK\r\nSubject: lunch\r\n\r\n" + b"At noon?\r\n" * 1_000 + b".\r\n",
    meaning="To TOP, from Stalwart 0.16 for TOP 1 0 and from small servers that ignore the number of lines.  A client"
    " reads on to the final dot, and cuts the message itself.",
)

# The replies to other commands

DELE_WITHOUT_TEXT: Final = OddReply(
    name="DELE_WITHOUT_TEXT",
    step=Dele,
    data=b"+OK\r\n",
    meaning="From small servers.  The message is marked; a client must not require text.",
)
NOOP_WITH_LONG_TEXT: Final = OddReply(
    name="NOOP_WITH_LONG_TEXT",
    step=Noop,
    data=b"+OK " + b"x" * 594 + b"\r\n",
    meaning="From servers with a notice: 600 bytes with CRLF, where RFC 1939 section 3 allows 512.  A tolerant client"
    " has a larger limit.",
)
NOOP_AFTER_AN_EMPTY_LINE: Final = OddReply(
    name="NOOP_AFTER_AN_EMPTY_LINE",
    step=Noop,
    data=b"\r\n+OK\r\n",
    meaning="From scripts that end a reply twice.  A tolerant client skips the empty line.",
)
NOOP_AFTER_A_TLS_RECORD: Final = OddReply(
    name="NOOP_AFTER_A_TLS_RECORD",
    step=Noop,
    data=b"\x17\x03\x03\x00\x05+OK\r\n",
    meaning="From broken proxies: the header of a TLS record is in the clear text.  A client must not search for +OK"
    " in the line; it ends the connection.",
)
NOOP_ANSWERED_BY_AUTOLOGOUT: Final = OddReply(
    name="NOOP_ANSWERED_BY_AUTOLOGOUT",
    step=Noop,
    data=b"-ERR [SYS/TEMP] logged out after ten minutes\r\n",
    meaning="From servers that end an idle session; the connection is then closed, and no message is deleted (RFC"
    " 1939 section 3).  A client logs in again.",
)
RSET_IN_LINES: Final = OddReply(
    name="RSET_IN_LINES",
    step=Rset,
    data=b"+OK maildrop has 2 messages\r\nmarks removed\r\n.\r\n",
    meaning="From servers that send a multi-line response where a single line is due.  The second line is not a"
    " reply: a client ends the connection.",
)
QUIT_WITH_ERROR: Final = OddReply(
    name="QUIT_WITH_ERROR",
    step=Quit,
    data=b"-ERR [SYS/TEMP] some deleted messages not removed\r\n",
    meaning="From servers that could not remove all messages (RFC 1939 section 6).  The session is over; the client"
    " must expect the messages again, and not process them twice.",
)
QUIT_WITH_LF: Final = OddReply(
    name="QUIT_WITH_LF",
    step=Quit,
    data=b"+OK bye\n",
    meaning="From servers with one reply that was written by hand.  A client that waits for CRLF gets the end of the"
    " connection, which ends the session as well.",
)

ALL: Final[Mapping[str, OddReply]] = by_name(globals().values())
"""All replies of this module, by name."""
