"""The settings of ``[relay]`` as the next hop that mail for elsewhere is handed on to.

Knows what must be proved when nothing is said of it; connects to nothing.  Each mistake is a Complaint.
"""

from __future__ import annotations

import ssl
from typing import Final

from mailauth import LocalProtocolError

from .. import server
from . import secret_file
from .parsers import NextHopUrl
from .settings import NO_TLS, OPPORTUNISTIC, REQUIRED, Settings

_NEEDS_URL: Final = ("relay_password_file", "relay_ca", "relay_tls", "relay_clear_text_login")
_LOOPBACK: Final = ("localhost", "127.0.0.1", "::1")
_ALSO: Final = {"127.0.0.1": ("localhost",), "::1": ("localhost",), "0.0.0.0": _LOOPBACK, "::": _LOOPBACK}
"""What else an address that one listens on can be called."""


def next_hop(settings: Settings) -> server.NextHop | None:
    """The next hop that *settings* ask for, None for an outbox.  Raises Complaint."""
    url = settings.relay_to
    if url is None:
        for name in _NEEDS_URL:
            if getattr(settings, name):
                raise settings.config_error(name, f"goes with {settings.names('relay_to')} alone")
        return None
    if settings.outbox is not None:
        raise settings.config_error(
            "relay_to", f"mail for elsewhere goes one way: leave out one of {settings.names('relay_to', 'outbox')}"
        )
    ourselves = {name for host in settings.hosts for name in (host, *_ALSO.get(host, ()))}
    if url.host in ourselves and url.port in (settings.smtp, settings.smtps):
        raise settings.config_error("relay_to", "is this server itself: mail for elsewhere would come back for ever")
    proved = url.implicit_tls or settings.relay_ca is not None
    if proved and settings.relay_tls not in (None, REQUIRED):
        reason = (
            "smtps:// is TLS always" if url.implicit_tls else f"{settings.names('relay_ca')} asks for a certificate"
        )
        raise settings.config_error("relay_tls", f"can only be {REQUIRED} here: {reason}")
    secret = proved or url.user is not None
    how = settings.relay_tls or (REQUIRED if secret else OPPORTUNISTIC)
    if settings.relay_clear_text_login and (how != NO_TLS or url.user is None):
        raise settings.config_error(
            "relay_clear_text_login", f"needs a user name and {settings.names('relay_tls')} {NO_TLS}"
        )
    return server.NextHop(
        host=url.host,
        port=url.port,
        implicit_tls=url.implicit_tls,
        tls_required=how == REQUIRED,
        ssl_context=None if how == NO_TLS else _context(settings, proving=how == REQUIRED),
        login=_login(settings, url),
        clear_text_login=settings.relay_clear_text_login,
    )


def _login(settings: Settings, url: NextHopUrl) -> server.Login | None:
    path = settings.relay_password_file
    if (url.user is None) != (path is None):
        raise settings.config_error(
            "relay_to" if path is None else "relay_password_file",
            "a user name in the URL and a file with the password go together: give both or none",
        )
    if url.user is None or path is None:
        return None
    password = secret_file.read(settings, "relay_password_file", path)
    try:
        return server.Login(name=url.user, password=password)
    except LocalProtocolError as error:
        raise settings.config_error("relay_password_file", f"{path}: {error}") from error


def _context(settings: Settings, *, proving: bool) -> ssl.SSLContext:
    path = settings.relay_ca
    try:
        context = ssl.create_default_context(cafile=path)
    except ssl.SSLError as error:
        raise settings.config_error("relay_ca", f"{path} holds no certificates in PEM") from error
    except OSError as error:
        raise settings.config_error("relay_ca", f"{path} cannot be read: {error.strerror}") from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2  # RFC 8996
    if not proving:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def warnings(settings: Settings) -> list[str]:
    """What to say about the next hop at the start."""
    url = settings.relay_to
    hop = next_hop(settings)
    if url is None or hop is None:
        return []
    told = [f"Mail for elsewhere goes to {hop} at once."]
    if hop.ssl_context is None:
        told.append("It goes there in clear text.")
        if hop.login is not None:
            how = "in clear text" if hop.clear_text_login else "by SCRAM alone, without TLS"
            told.append(f"The login there goes {how}.")
    elif not hop.tls_required:
        if hop.login is None:
            told.append("It goes there in clear text if no TLS can be had; inside TLS any certificate will do.")
        else:
            told.append("It and the password for it go there inside TLS, where any certificate will do.")
    return told
