r"""Odd replies of SMTP servers, by the step at which they occur.

For example:

    @pytest.mark.parametrize("odd", odd_replies.smtp.ALL.values(), ids=lambda odd: odd.name)
    def test_client_does_not_hang(odd, mail_server):
        mail_server.on(odd.step).reply(odd).optional()
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from mailauth.smtp import (
    Auth,
    Connected,
    Data,
    Hello,
    Mail,
    MessageComplete,
    Noop,
    Quit,
    Rcpt,
    Rset,
    StartTls,
)

from ._odd_reply import OddReply, by_name

__all__ = [
    "ALL",
    "AUTH_ACCEPTED_WITHOUT_TEXT",
    "AUTH_ACCEPTED_WITH_250",
    "AUTH_ACCEPTED_WITH_CHALLENGE",
    "AUTH_CHALLENGE_NOT_IN_BASE64",
    "AUTH_PROMPT_IN_CLEAR_TEXT",
    "AUTH_PROMPT_IN_TWO_LINES",
    "AUTH_PROMPT_WITHOUT_PADDING",
    "AUTH_PROMPT_WITHOUT_SPACE",
    "AUTH_PROMPT_WITH_EQUALS",
    "AUTH_PROMPT_WITH_FREE_TEXT",
    "AUTH_PROMPT_WITH_NUL",
    "AUTH_REFUSED_IN_GBK",
    "AUTH_REFUSED_WITH_OTHER_CLASS",
    "DATA_ACCEPTED_WITH_250",
    "DATA_ANSWERED_BY_421",
    "DATA_IN_TWO_LINES",
    "DATA_WITHOUT_TEXT",
    "EHLO_ENDS_WITH_CODE_ALONE",
    "EHLO_ENDS_WITH_CODE_AND_SPACE",
    "EHLO_IN_LATIN_1",
    "EHLO_IN_LOWER_CASE",
    "EHLO_IN_ONE_LINE",
    "EHLO_OF_300_LINES",
    "EHLO_UNKNOWN",
    "EHLO_WITHOUT_CODES",
    "EHLO_WITHOUT_LAST_LINE",
    "EHLO_WITHOUT_TEXT",
    "EHLO_WITH_AUTH_AND_EQUALS",
    "EHLO_WITH_AUTH_TWICE",
    "EHLO_WITH_DIFFERENT_CODES",
    "EHLO_WITH_EMPTY_LINES",
    "EHLO_WITH_GARBLED_KEYWORDS",
    "EHLO_WITH_HUGE_SIZE",
    "EHLO_WITH_LATE_REFUSAL",
    "EHLO_WITH_SIZE_0",
    "EHLO_WITH_SIZE_IN_TWO_LINES",
    "EHLO_WITH_SIZE_WITHOUT_NUMBER",
    "EHLO_WITH_SPACES",
    "EHLO_WITH_TABS",
    "GREETING_AFTER_AN_EMPTY_LINE",
    "GREETING_BUSY",
    "GREETING_IN_LATIN_1",
    "GREETING_IN_MANY_LINES",
    "GREETING_IN_UTF_8",
    "GREETING_OF_100_KB",
    "GREETING_OF_600_BYTES",
    "GREETING_OF_A_FIREWALL",
    "GREETING_OF_HTTP",
    "GREETING_OF_POP3",
    "GREETING_OF_SSH",
    "GREETING_OF_TLS",
    "GREETING_REFUSED",
    "GREETING_REFUSED_WITH_553",
    "GREETING_TWICE",
    "GREETING_WITHOUT_HOST",
    "GREETING_WITHOUT_TEXT",
    "GREETING_WITH_BARE_CR",
    "GREETING_WITH_DIFFERENT_CODES",
    "GREETING_WITH_LATE_REFUSAL",
    "GREETING_WITH_LF",
    "GREETING_WITH_NUL",
    "MAIL_ANSWERED_BY_421",
    "MAIL_REFUSED_WITH_498",
    "MAIL_WITHOUT_TEXT",
    "MESSAGE_ACCEPTED_TWICE",
    "MESSAGE_ACCEPTED_WITHOUT_TEXT",
    "MESSAGE_ANSWERED_BY_3YZ",
    "MESSAGE_ANSWERED_BY_421",
    "MESSAGE_REFUSED_WITH_599",
    "NOOP_AFTER_20_EMPTY_LINES",
    "NOOP_AFTER_AN_EMPTY_LINE",
    "NOOP_IN_UTF_16",
    "NOOP_OF_ONLY_DIGITS",
    "NOOP_OUT_OF_RANGE",
    "QUIT_ANSWERED_BY_250",
    "QUIT_REFUSED",
    "RCPT_REFUSED_IN_LINES_WITH_DIFFERENT_STATUS",
    "RCPT_REFUSED_WITH_552",
    "RCPT_REFUSED_WITH_571",
    "RCPT_REFUSED_WITH_PERMANENT_STATUS",
    "RCPT_REFUSED_WITH_POSITIVE_STATUS",
    "RCPT_WITHOUT_SPACE",
    "RCPT_WITH_CONTROL_CHARACTERS",
    "RCPT_WITH_TWO_REPLIES",
    "RSET_WITH_LF",
    "STARTTLS_ACCEPTED_WITH_250",
    "STARTTLS_UNAVAILABLE",
    "STARTTLS_WITH_TEXT_AFTER_IT",
]

# The greeting

GREETING_WITHOUT_TEXT: Final = OddReply(
    name="GREETING_WITHOUT_TEXT",
    step=Connected,
    data=b"220\r\n",
    meaning="From small servers in devices and test tools.  RFC 5321 section 4.2 tells clients to accept a code alone.",
)
GREETING_WITHOUT_HOST: Final = OddReply(
    name="GREETING_WITHOUT_HOST",
    step=Connected,
    data=b"220 Service ready\r\n",
    meaning="From servers whose administrator has replaced the text to hide the software.  The first word is not the"
    " host name that RFC 5321 section 4.2 requires.  A client ignores the text.",
)
GREETING_OF_A_FIREWALL: Final = OddReply(
    name="GREETING_OF_A_FIREWALL",
    step=Connected,
    data=b"220 *****************************0*2******0***********************2****0*00\r\n",
    meaning="From servers after a Cisco PIX with Mailguard (fixup protocol smtp), which overwrites the text except"
    " for a few digits.  A client ignores the text, and expects an error to EHLO.",
)
GREETING_IN_MANY_LINES: Final = OddReply(
    name="GREETING_IN_MANY_LINES",
    step=Connected,
    data=b"220-mx.example ESMTP\r\n" + b"220-Use of this system by others is prohibited.\r\n" * 58 + b"220 ready\r\n",
    meaning="From servers of hosting providers: a legal notice, here of 60 lines in all.  It is one reply; a client"
    " that reads one line takes the rest for replies to its commands.",
)
GREETING_AFTER_AN_EMPTY_LINE: Final = OddReply(
    name="GREETING_AFTER_AN_EMPTY_LINE",
    step=Connected,
    data=b"\r\n220 mx.example ESMTP\r\n",
    meaning="From scripts and proxies that add line ends.  A tolerant client skips some empty lines where a reply"
    " begins; others report an error.",
)
GREETING_TWICE: Final = OddReply(
    name="GREETING_TWICE",
    step=Connected,
    data=b"220 proxy.example ESMTP\r\n220 mx.example ESMTP\r\n",
    meaning="From proxies that pass on the greeting of the server after their own.  The second is a reply to no"
    " command.  A client must not take it for the reply to EHLO; it ends the connection.",
)
GREETING_WITH_LATE_REFUSAL: Final = OddReply(
    name="GREETING_WITH_LATE_REFUSAL",
    step=Connected,
    data=b"220-mx.example ESMTP\r\n521 5.7.1 client [192.0.2.1] is blocked by dnsbl.example\r\n",
    meaning="From postscreen of Postfix, which sends the first line to see whether the client waits.  The last code"
    " counts: the client is refused, although RFC 5321 section 4.2.1 requires equal codes.",
)
GREETING_WITH_DIFFERENT_CODES: Final = OddReply(
    name="GREETING_WITH_DIFFERENT_CODES",
    step=Connected,
    data=b"220-mx.example ESMTP\r\n250 mx.example\r\n",
    meaning="From scripts.  RFC 5321 section 4.2.1 forbids it.  Two positive codes in one reply have no clear"
    " meaning, and a client ends the connection.",
)
GREETING_REFUSED: Final = OddReply(
    name="GREETING_REFUSED",
    step=Connected,
    data=b"554 5.7.1 No SMTP service here for 192.0.2.1\r\n",
    meaning="From servers that block the address of the client (RFC 5321 section 3.1).  The client sends QUIT, and"
    " may try another server.",
)
GREETING_REFUSED_WITH_553: Final = OddReply(
    name="GREETING_REFUSED_WITH_553",
    step=Connected,
    data=b"553 5.3.0 Your address is listed, see http://dnsbl.example/?192.0.2.1\r\n",
    meaning="From filters in front of servers, with a code for another purpose.  A client decides by the first digit:"
    " refused.",
)
GREETING_BUSY: Final = OddReply(
    name="GREETING_BUSY",
    step=Connected,
    data=b"421 4.7.0 mx.example has too many connections from 192.0.2.1\r\n",
    meaning="From servers with a limit of connections, in place of 220; the connection is then closed.  The client"
    " tries again later, on a new connection.",
)
GREETING_IN_LATIN_1: Final = OddReply(
    name="GREETING_IN_LATIN_1",
    step=Connected,
    data="220 mx.example Serveur de messagerie prêt, bienvenue à tous\r\n".encode("latin-1"),
    meaning="From servers with a localized text.  It is not ASCII and not UTF-8; a client must not fail to decode it.",
)
GREETING_IN_UTF_8: Final = OddReply(
    name="GREETING_IN_UTF_8",
    step=Connected,
    data="220 mx.example Почтовый сервер готов\r\n".encode(),
    meaning="From servers with a localized text, although SMTPUTF8 was not negotiated (RFC 6531).  A client accepts"
    " it.",
)
GREETING_WITH_LF: Final = OddReply(
    name="GREETING_WITH_LF",
    step=Connected,
    data=b"220 mx.example ESMTP\n",
    meaning="From scripts with the line ends of Unix.  Only CRLF ends a line (RFC 5321 section 2.3.8): a strict"
    " client waits for it until its timeout, and others accept the line.",
)
GREETING_WITH_BARE_CR: Final = OddReply(
    name="GREETING_WITH_BARE_CR",
    step=Connected,
    data=b"220 mx.example\rESMTP\r\n",
    meaning="From servers that take the text from a file with old line ends.  A client that ends lines at CR sees"
    " two; one that does not must not print the CR.",
)
GREETING_WITH_NUL: Final = OddReply(
    name="GREETING_WITH_NUL",
    step=Connected,
    data=b"220 mx.example\0\0\0\0\r\n",
    meaning="From devices that send a buffer of fixed size.  A client ignores the NUL bytes or ends the connection;"
    " it must not cut the line there and leave the rest unread.",
)
GREETING_OF_600_BYTES: Final = OddReply(
    name="GREETING_OF_600_BYTES",
    step=Connected,
    data=b"220 mx.example " + b"x" * 583 + b"\r\n",
    meaning="From servers with a long notice in one line: 600 bytes with CRLF, where RFC 5321 section 4.5.3.1.5"
    " allows 512.  A tolerant client has a larger limit.",
)
GREETING_OF_100_KB: Final = OddReply(
    name="GREETING_OF_100_KB",
    step=Connected,
    data=b"220 mx.example " + b"x" * 102_383 + b"\r\n",
    meaning="From a port that is not SMTP, or from an attacker: one line of 102,400 bytes.  A client ends the"
    " connection at a limit, and keeps no more than that in memory.",
)
GREETING_OF_HTTP: Final = OddReply(
    name="GREETING_OF_HTTP",
    step=Connected,
    data=b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
    meaning="From a web server or an HTTP proxy at the port.  The client reports that it is not SMTP.",
)
GREETING_OF_TLS: Final = OddReply(
    name="GREETING_OF_TLS",
    step=Connected,
    data=b"\x15\x03\x01\x00\x02\x02\x46",
    meaning="From a port with implicit TLS: an alert record, here protocol_version, and no line end.  A client"
    " without TLS waits until its timeout, or reports that the port needs TLS.",
)
GREETING_OF_SSH: Final = OddReply(
    name="GREETING_OF_SSH",
    step=Connected,
    data=b"SSH-2.0-OpenSSH_9.6\r\n",
    meaning="From an SSH server at the port.  The client reports that it is not SMTP.",
)
GREETING_OF_POP3: Final = OddReply(
    name="GREETING_OF_POP3",
    step=Connected,
    data=b"+OK POP3 ready\r\n",
    meaning="From a POP3 server at the port, after a mistake in a configuration.  The client reports that it is not"
    " SMTP.",
)

# The reply to EHLO

EHLO_IN_ONE_LINE: Final = OddReply(
    name="EHLO_IN_ONE_LINE",
    step=Hello,
    data=b"250 mx.example\r\n",
    meaning="From servers without extensions.  The client offers no login and sends no parameters.",
)
EHLO_WITHOUT_TEXT: Final = OddReply(
    name="EHLO_WITHOUT_TEXT",
    step=Hello,
    data=b"250\r\n",
    meaning="From small servers in devices.  It is accepted, without extensions; a client must not read a fourth byte.",
)
EHLO_ENDS_WITH_CODE_AND_SPACE: Final = OddReply(
    name="EHLO_ENDS_WITH_CODE_AND_SPACE",
    step=Hello,
    data=b"250-mx.example\r\n250-SIZE 10240000\r\n250 \r\n",
    meaning="From servers that end a list by a line without text.  The reply is complete, and a client ignores its"
    " last line.",
)
EHLO_ENDS_WITH_CODE_ALONE: Final = OddReply(
    name="EHLO_ENDS_WITH_CODE_ALONE",
    step=Hello,
    data=b"250-mx.example\r\n250-SIZE 10240000\r\n250\r\n",
    meaning="From servers that also leave out the space (RFC 5321 section 4.2).  The reply is complete; a client that"
    " looks for the space waits until its timeout.",
)
EHLO_WITHOUT_LAST_LINE: Final = OddReply(
    name="EHLO_WITHOUT_LAST_LINE",
    step=Hello,
    data=b"250-mx.example\r\n250-SIZE 10240000\r\n250-HELP\r\n",
    meaning="From servers that write a hyphen in every line.  The reply is not complete; the client waits until its"
    " timeout.",
)
EHLO_IN_LOWER_CASE: Final = OddReply(
    name="EHLO_IN_LOWER_CASE",
    step=Hello,
    data=b"250-mx.example\r\n250-auth plain login\r\n250-size 10240000\r\n250 starttls\r\n",
    meaning="From small servers.  Keywords and the names of mechanisms are not case-sensitive (RFC 5321 section 2.4);"
    " a client finds them all.",
)
EHLO_WITH_AUTH_AND_EQUALS: Final = OddReply(
    name="EHLO_WITH_AUTH_AND_EQUALS",
    step=Hello,
    data=b"250-mx.example\r\n250 AUTH=PLAIN LOGIN\r\n",
    meaning="From old Exchange servers, and from servers made for old Outlook.  A tolerant client reads it as AUTH"
    " PLAIN LOGIN; others find no mechanism.",
)
EHLO_WITH_AUTH_TWICE: Final = OddReply(
    name="EHLO_WITH_AUTH_TWICE",
    step=Hello,
    data=b"250-mx.example\r\n250-AUTH PLAIN\r\n250-AUTH=LOGIN\r\n250 AUTH CRAM-MD5\r\n",
    meaning="From Postfix with broken_sasl_auth_clients and from Apache James, both with AUTH= in addition, and from"
    " servers with plug-ins.  The client offers the mechanisms of all lines, not of one.",
)
EHLO_WITH_TABS: Final = OddReply(
    name="EHLO_WITH_TABS",
    step=Hello,
    data=b"250-mx.example\r\n250-AUTH\tPLAIN\tLOGIN\r\n250 SIZE\t10240000\r\n",
    meaning="From appliances.  A tolerant client reads a tab as a space.",
)
EHLO_WITH_SPACES: Final = OddReply(
    name="EHLO_WITH_SPACES",
    step=Hello,
    data=b"250-mx.example \r\n250-AUTH  PLAIN   LOGIN \r\n250-STARTTLS \r\n250 SIZE  10240000 \r\n",
    meaning="From servers that build the lines from parts.  A tolerant client ignores spaces at the end and doubled"
    " ones.",
)
EHLO_WITH_EMPTY_LINES: Final = OddReply(
    name="EHLO_WITH_EMPTY_LINES",
    step=Hello,
    data=b"250-mx.example\r\n250-\r\n250-SIZE 10240000\r\n250- \r\n250 HELP\r\n",
    meaning="From servers in which an extension is disabled in the list but not removed.  A client ignores lines"
    " without a keyword; they do not end the list.",
)
EHLO_WITH_SIZE_WITHOUT_NUMBER: Final = OddReply(
    name="EHLO_WITH_SIZE_WITHOUT_NUMBER",
    step=Hello,
    data=b"250-mx.example\r\n250 SIZE\r\n",
    meaning="From servers that know the parameter SIZE and do not say their limit (RFC 1870 section 3).  A client"
    " must not convert the empty text to a number.",
)
EHLO_WITH_SIZE_0: Final = OddReply(
    name="EHLO_WITH_SIZE_0",
    step=Hello,
    data=b"250-mx.example\r\n250 SIZE 0\r\n",
    meaning="From Mailpit and others: no fixed limit (RFC 1870 section 3).  A client must not refuse every message.",
)
EHLO_WITH_SIZE_IN_TWO_LINES: Final = OddReply(
    name="EHLO_WITH_SIZE_IN_TWO_LINES",
    step=Hello,
    data=b"250-mx.example\r\n250-SIZE\r\n250-50000000\r\n250 8BITMIME\r\n",
    meaning="From nginx with a parameter that is not quoted in its configuration.  SIZE has no number, and the number"
    " is an unknown keyword, which a client ignores.",
)
EHLO_WITH_HUGE_SIZE: Final = OddReply(
    name="EHLO_WITH_HUGE_SIZE",
    step=Hello,
    data=b"250-mx.example\r\n250 SIZE 18446744073709551616\r\n",
    meaning="From servers with an overflow in their settings.  The number does not fit in 64 bits; a client that"
    " cannot hold it treats it as no limit.",
)
EHLO_WITH_GARBLED_KEYWORDS: Final = OddReply(
    name="EHLO_WITH_GARBLED_KEYWORDS",
    step=Hello,
    data=b"250-mx.example\r\n250-XXXXXXXA\r\n250-AUTH PLAIN LOGIN\r\n250 XXXB\r\n",
    meaning="From servers after a Cisco firewall with ESMTP inspection, which overwrites keywords such as STARTTLS."
    "  The client ignores unknown keywords; without STARTTLS it must not send a password.",
)
EHLO_WITHOUT_CODES: Final = OddReply(
    name="EHLO_WITHOUT_CODES",
    step=Hello,
    data=b"250 mx.example\r\nSIZE\r\n8BITMIME\r\n",
    meaning="From smtp4dev on Linux, which lost the codes of the further lines.  The reply ends after its first line,"
    " and the rest is not a reply: the client ends the connection.",
)
EHLO_WITH_DIFFERENT_CODES: Final = OddReply(
    name="EHLO_WITH_DIFFERENT_CODES",
    step=Hello,
    data=b"250-mx.example\r\n220-SIZE 10240000\r\n250 HELP\r\n",
    meaning="From scripts.  RFC 5321 section 4.2.1 requires equal codes; a client ends the connection.",
)
EHLO_WITH_LATE_REFUSAL: Final = OddReply(
    name="EHLO_WITH_LATE_REFUSAL",
    step=Hello,
    data=b"250-mx.example\r\n250-SIZE 10240000\r\n550 5.7.1 Access denied\r\n",
    meaning="From servers and filters that decide while they write.  A tolerant client takes it as a refusal; it is"
    " never accepted.",
)
EHLO_OF_300_LINES: Final = OddReply(
    name="EHLO_OF_300_LINES",
    step=Hello,
    data=b"250-mx.example\r\n" + b"".join(b"250-X-%d\r\n" % number for number in range(1, 299)) + b"250 HELP\r\n",
    meaning="From a faulty or hostile server; the longest that were seen have about thirty lines.  A client may end"
    " the connection at a limit, and must not read without end.",
)
EHLO_IN_LATIN_1: Final = OddReply(
    name="EHLO_IN_LATIN_1",
    step=Hello,
    data="250-mx.example grüßt client.example\r\n250 SIZE 10240000\r\n".encode("latin-1"),
    meaning="From servers with a localized text in the first line.  A client must not fail to decode it.",
)
EHLO_UNKNOWN: Final = OddReply(
    name="EHLO_UNKNOWN",
    step=Hello,
    data=b"500 unknown command: XXXX client.example\r\n",
    meaning="From servers after a Cisco PIX, which overwrites EHLO, and from servers from before 1995.  The client"
    " sends HELO (RFC 5321 section 3.2).",
)

# The reply to STARTTLS

STARTTLS_ACCEPTED_WITH_250: Final = OddReply(
    name="STARTTLS_ACCEPTED_WITH_250",
    step=StartTls,
    data=b"250 2.0.0 go ahead\r\n",
    meaning="From scripts that reply 250 to everything.  Only 220 begins the handshake (RFC 3207 section 4); a client"
    " ends the connection, and does not go on in clear text.",
)
STARTTLS_WITH_TEXT_AFTER_IT: Final = OddReply(
    name="STARTTLS_WITH_TEXT_AFTER_IT",
    step=StartTls,
    data=b"220 2.0.0 ready\r\n250 mx.example\r\n",
    meaning="From an attacker in the network, who answers the EHLO that follows the handshake (CVE-2020-14954 in"
    " Mutt).  The client must not read it inside TLS: it discards it, or ends the connection.",
)
STARTTLS_UNAVAILABLE: Final = OddReply(
    name="STARTTLS_UNAVAILABLE",
    step=StartTls,
    data=b"454 4.7.0 TLS is not available now\r\n",
    meaning="From Postfix with a key that cannot be read, although STARTTLS is offered.  A client that requires TLS"
    " gives up; none sends a password in clear text.",
)

# The replies to AUTH and to responses

AUTH_PROMPT_WITHOUT_SPACE: Final = OddReply(
    name="AUTH_PROMPT_WITHOUT_SPACE",
    step=Auth,
    data=b"334\r\n",
    meaning="From smtp.yandex.ru and others, for an empty challenge.  RFC 4954 section 4 requires a space; a client"
    " accepts it, and must not read a fourth byte.",
)
AUTH_PROMPT_WITH_EQUALS: Final = OddReply(
    name="AUTH_PROMPT_WITH_EQUALS",
    step=Auth,
    data=b"334 =\r\n",
    meaning="From servers that write an empty challenge as clients write an empty response.  It is not base64.  A"
    " tolerant client accepts it before its first response.",
)
AUTH_PROMPT_IN_CLEAR_TEXT: Final = OddReply(
    name="AUTH_PROMPT_IN_CLEAR_TEXT",
    step=Auth,
    data=b"334 Username:\r\n",
    meaning="From small servers and gateways, for AUTH LOGIN: not base64.  A client of LOGIN ignores what a prompt"
    " says.",
)
AUTH_PROMPT_WITHOUT_PADDING: Final = OddReply(
    name="AUTH_PROMPT_WITHOUT_PADDING",
    step=Auth,
    data=b"334 VXNlciBOYW1lAA\r\n",
    meaning="From small servers, for AUTH LOGIN: base64 of User Name and NUL, without ==.  A client of LOGIN ignores"
    " what a prompt says.",
)
AUTH_PROMPT_WITH_NUL: Final = OddReply(
    name="AUTH_PROMPT_WITH_NUL",
    step=Auth,
    data=b"334 VXNlciBOYW1lAA==\r\n",
    meaning="From aiosmtpd, as old servers of Microsoft did, for AUTH LOGIN: User Name and NUL.  Clients that compare"
    " the prompt with Username: fail (the net/smtp of Go); a tolerant one ignores it.",
)
AUTH_PROMPT_WITH_FREE_TEXT: Final = OddReply(
    name="AUTH_PROMPT_WITH_FREE_TEXT",
    step=Auth,
    data=b"334 ok, go ahead\r\n",
    meaning="From small servers, where PLAIN, XOAUTH2 or another mechanism has an empty challenge.  A tolerant client"
    " accepts it before its first response.",
)
AUTH_PROMPT_IN_TWO_LINES: Final = OddReply(
    name="AUTH_PROMPT_IN_TWO_LINES",
    step=Auth,
    data=b"334-Welcome\r\n334 VXNlcm5hbWU6\r\n",
    meaning="From scripts.  A challenge has one line (RFC 4954 section 4); a client cancels the login.",
)
AUTH_CHALLENGE_NOT_IN_BASE64: Final = OddReply(
    name="AUTH_CHALLENGE_NOT_IN_BASE64",
    step=Auth,
    data=b"334 <1896.697170952@mx.example>\r\n",
    meaning="From small servers, for CRAM-MD5.  Here the challenge has a meaning, and two clients could read it"
    " differently: a client cancels the login (RFC 4954 section 4).",
)
AUTH_ACCEPTED_WITHOUT_TEXT: Final = OddReply(
    name="AUTH_ACCEPTED_WITHOUT_TEXT",
    step=Auth,
    data=b"235 \r\n",
    meaning="From servers that write the code, a space and no text.  The login has succeeded; a client must not"
    " require text.",
)
AUTH_ACCEPTED_WITH_CHALLENGE: Final = OddReply(
    name="AUTH_ACCEPTED_WITH_CHALLENGE",
    step=Auth,
    data=b"235 dj1ybUY5cHFWOFM3c3VBb1pXamE0ZEpSa0ZzS1E9\r\n",
    meaning="From servers that send the last message of SCRAM with 235, which cannot carry it (RFC 4954 section 4)."
    "  For SCRAM a client reports an error: the server has not proved that it knows the password.  For other"
    " mechanisms it is only text.",
)
AUTH_ACCEPTED_WITH_250: Final = OddReply(
    name="AUTH_ACCEPTED_WITH_250",
    step=Auth,
    data=b"250 2.7.0 Authentication successful\r\n",
    meaning="From scripts that reply 250 to everything.  Only 235 is success (RFC 4954 section 6); a client reports"
    " an error.",
)
AUTH_REFUSED_IN_GBK: Final = OddReply(
    name="AUTH_REFUSED_IN_GBK",
    step=Auth,
    data="535 Error: 请使用授权码登录\r\n".encode("gbk"),
    meaning="From QQ Mail.  The text is neither ASCII nor UTF-8; a client reports that the password was refused, and"
    " must not fail to decode it.",
)
AUTH_REFUSED_WITH_OTHER_CLASS: Final = OddReply(
    name="AUTH_REFUSED_WITH_OTHER_CLASS",
    step=Auth,
    data=b"535 4.7.8 Authentication failed\r\n",
    meaning="From gateways: the code is permanent and the enhanced status code temporary.  The code decides, and a"
    " client ignores the other (RFC 2034 section 4 requires the same first digit).",
)

# The replies in a transaction

MAIL_WITHOUT_TEXT: Final = OddReply(
    name="MAIL_WITHOUT_TEXT",
    step=Mail,
    data=b"250\r\n",
    meaning="From small servers and scripts.  A client accepts a code alone (RFC 5321 section 4.2).",
)
MAIL_REFUSED_WITH_498: Final = OddReply(
    name="MAIL_REFUSED_WITH_498",
    step=Mail,
    data=b"498 4.7.1 try again in five minutes\r\n",
    meaning="From sites with Postfix, Exim or sendmail and codes of their own.  The second digit is outside the"
    " grammar.  A client decides by the first: temporary (RFC 5321 section 4.2.1).",
)
MAIL_ANSWERED_BY_421: Final = OddReply(
    name="MAIL_ANSWERED_BY_421",
    step=Mail,
    data=b"421 4.4.2 mx.example timed out\r\n",
    meaning="From servers that end an idle connection which a client keeps for the next message.  It was sent before"
    " MAIL arrived.  The client sends the message on a new connection.",
)
RCPT_WITHOUT_SPACE: Final = OddReply(
    name="RCPT_WITHOUT_SPACE",
    step=Rcpt,
    data=b"250OK\r\n",
    meaning="From scripts: a code, and text without a space or a hyphen.  It is not clear whether another line"
    " follows; a strict client ends the connection, and others take it as the last line.",
)
RCPT_WITH_TWO_REPLIES: Final = OddReply(
    name="RCPT_WITH_TWO_REPLIES",
    step=Rcpt,
    data=b"250 2.1.5 Ok\r\n250 2.1.5 Ok\r\n",
    meaning="From proxies and filters that add a reply of their own.  The second one must not become the reply to"
    " DATA, which would accept a message that the server refuses: a client ends the connection.",
)
RCPT_WITH_CONTROL_CHARACTERS: Final = OddReply(
    name="RCPT_WITH_CONTROL_CHARACTERS",
    step=Rcpt,
    data=b"550 5.1.1 \x1b[31mno such user\x1b[0m\x07\r\n",
    meaning="From scripts, or from an attacker who wants them printed on a terminal.  A client reports an error or"
    " escapes them.",
)
RCPT_REFUSED_WITH_571: Final = OddReply(
    name="RCPT_REFUSED_WITH_571",
    step=Rcpt,
    data=b"571 5.7.1 Delivery not authorized, message refused\r\n",
    meaning="From sites whose administrator made the code from 5.7.1.  A client decides by the first digit: permanent"
    " (RFC 5321 section 4.2.1).  The other recipients are not affected.",
)
RCPT_REFUSED_WITH_POSITIVE_STATUS: Final = OddReply(
    name="RCPT_REFUSED_WITH_POSITIVE_STATUS",
    step=Rcpt,
    data=b"550 2.1.5 User unknown\r\n",
    meaning="From gateways that add a fixed status: the enhanced status code says success.  A client decides by the"
    " code: refused.",
)
RCPT_REFUSED_WITH_PERMANENT_STATUS: Final = OddReply(
    name="RCPT_REFUSED_WITH_PERMANENT_STATUS",
    step=Rcpt,
    data=b"450 5.7.1 Greylisted, see http://greylist.example/\r\n",
    meaning="From greylisting: the code is temporary and the enhanced status code permanent.  The code decides: the"
    " client tries again later.",
)
RCPT_REFUSED_WITH_552: Final = OddReply(
    name="RCPT_REFUSED_WITH_552",
    step=Rcpt,
    data=b"552 5.5.3 Too many recipients\r\n",
    meaning="From servers with the code of RFC 821 for too many recipients.  A client treats it as 452 and sends the"
    " rest in another transaction (RFC 5321 section 4.5.3.1.10).",
)
RCPT_REFUSED_IN_LINES_WITH_DIFFERENT_STATUS: Final = OddReply(
    name="RCPT_REFUSED_IN_LINES_WITH_DIFFERENT_STATUS",
    step=Rcpt,
    data=b"550-5.1.1 no such user\r\n550 5.7.1 and you are blocked\r\n",
    meaning="From servers that join two reasons.  The lines have one code, so the reply is valid; a client must not"
    " report one of the enhanced status codes for all.",
)
DATA_WITHOUT_TEXT: Final = OddReply(
    name="DATA_WITHOUT_TEXT",
    step=Data,
    data=b"354\r\n",
    meaning="From small servers.  The client sends the content.",
)
DATA_IN_TWO_LINES: Final = OddReply(
    name="DATA_IN_TWO_LINES",
    step=Data,
    data=b"354-end the message with a dot\r\n354 go ahead\r\n",
    meaning="From scripts.  It is one reply, so the client sends the content after the second line.",
)
DATA_ACCEPTED_WITH_250: Final = OddReply(
    name="DATA_ACCEPTED_WITH_250",
    step=Data,
    data=b"250 2.0.0 Ok\r\n",
    meaning="From scripts that reply 250 to everything.  Only 354 asks for content (RFC 5321 section 4.1.1.4); a"
    " client sends none, since a server that did not mean it would read it as commands.",
)
DATA_ANSWERED_BY_421: Final = OddReply(
    name="DATA_ANSWERED_BY_421",
    step=Data,
    data=b"421 4.3.0 temporary problem, try again later\r\n",
    meaning="From Gmail and others, in place of 354; the connection is then closed.  The client sends no content, and"
    " sends the message again later.",
)
MESSAGE_ACCEPTED_WITHOUT_TEXT: Final = OddReply(
    name="MESSAGE_ACCEPTED_WITHOUT_TEXT",
    step=MessageComplete,
    data=b"250\r\n",
    meaning="From small servers.  The message is accepted; a client must not require an identifier in the text.",
)
MESSAGE_ACCEPTED_TWICE: Final = OddReply(
    name="MESSAGE_ACCEPTED_TWICE",
    step=MessageComplete,
    data=b"250\r\n250 Ok 0195b5f0\r\n",
    meaning="From the SMTP module of Buggregator.  The message is accepted once.  The second reply must not be taken"
    " for that to the next command: a client opens a new connection for the next message.",
)
MESSAGE_REFUSED_WITH_599: Final = OddReply(
    name="MESSAGE_REFUSED_WITH_599",
    step=MessageComplete,
    data=b"599 5.7.1 message content rejected\r\n",
    meaning="From filters with codes of their own.  A client decides by the first digit: permanent (RFC 5321 section"
    " 4.2.1).",
)
MESSAGE_ANSWERED_BY_3YZ: Final = OddReply(
    name="MESSAGE_ANSWERED_BY_3YZ",
    step=MessageComplete,
    data=b"354 go ahead\r\n",
    meaning="From servers whose replies are one command late.  An intermediate reply here"
    " accepts nothing: a client reports an error and sends the message again later.",
)
MESSAGE_ANSWERED_BY_421: Final = OddReply(
    name="MESSAGE_ANSWERED_BY_421",
    step=MessageComplete,
    data=b"421 4.7.0 mx.example closing, message not accepted\r\n",
    meaning="From servers that shut down or that limit the rate.  The message is not accepted; the client sends it"
    " again later, on a new connection.",
)

# The replies to other commands

RSET_WITH_LF: Final = OddReply(
    name="RSET_WITH_LF",
    step=Rset,
    data=b"250 2.0.0 Ok\n",
    meaning="From servers with one reply that was written by hand.  Only CRLF ends a line: a strict client waits"
    " until its timeout.",
)
NOOP_AFTER_AN_EMPTY_LINE: Final = OddReply(
    name="NOOP_AFTER_AN_EMPTY_LINE",
    step=Noop,
    data=b"\r\n250 2.0.0 Ok\r\n",
    meaning="From scripts that end a reply twice.  A tolerant client skips the empty line.",
)
NOOP_AFTER_20_EMPTY_LINES: Final = OddReply(
    name="NOOP_AFTER_20_EMPTY_LINES",
    step=Noop,
    data=b"\r\n" * 20 + b"250 2.0.0 Ok\r\n",
    meaning="From a server that is broken or hostile.  A client that skips empty lines has a limit, so that they do"
    " not keep it busy.",
)
NOOP_OF_ONLY_DIGITS: Final = OddReply(
    name="NOOP_OF_ONLY_DIGITS",
    step=Noop,
    data=b"2500\r\n",
    meaning="From scripts that print a number.  A code has three digits and then a space, a hyphen or the end: a"
    " client ends the connection.",
)
NOOP_OUT_OF_RANGE: Final = OddReply(
    name="NOOP_OUT_OF_RANGE",
    step=Noop,
    data=b"600 ok\r\n",
    meaning="From scripts.  No code begins with 6; a client ends the connection.",
)
NOOP_IN_UTF_16: Final = OddReply(
    name="NOOP_IN_UTF_16",
    step=Noop,
    data="250 OK\r\n".encode("utf-16-le"),
    meaning="From scripts on Windows.  Each byte is followed by NUL, so no CRLF is found: a client waits until its"
    " timeout, or ends the connection.",
)
QUIT_ANSWERED_BY_250: Final = OddReply(
    name="QUIT_ANSWERED_BY_250",
    step=Quit,
    data=b"250 2.0.0 Ok\r\n",
    meaning="From scripts that reply 250 to everything.  A client closes the connection after any reply; no result"
    " depends on it.",
)
QUIT_REFUSED: Final = OddReply(
    name="QUIT_REFUSED",
    step=Quit,
    data=b"502 5.5.1 command not implemented\r\n",
    meaning="From small servers.  The client closes the connection; messages that were accepted stay accepted.",
)

ALL: Final[Mapping[str, OddReply]] = by_name(globals().values())
"""All replies of this module, by name."""
