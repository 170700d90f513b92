"""The settings of ``[relay]``: the next hop that remote mail is relayed to, and its TLS defaults.

This module opens no connection.  Invalid settings raise ConfigError.
"""

from __future__ import annotations

import ssl
from typing import Final

from .. import server
from .._files import read_file
from . import secret_file
from .parsers import NextHopUrl
from .settings import NO_TLS, OPPORTUNISTIC, REQUIRED, Settings

_NEEDS_URL: Final = ("relay_password_file", "relay_ca", "relay_tls", "relay_clear_text_login", "relay_mechanism")


def next_hop(settings: Settings) -> server.NextHop | None:
    """Return the next hop that *settings* name, or None if mail goes to an outbox.  Raises ConfigError."""
    url = settings.relay_to
    if url is None:
        for name in _NEEDS_URL:
            if getattr(settings, name):
                raise settings.config_error(name, f"requires {settings.names('relay_to')}")
        return None
    if settings.outbox is not None:
        raise settings.config_error(
            "relay_to", f"cannot be combined with an outbox; remove one of {settings.names('relay_to', 'outbox')}"
        )
    if url.port in (settings.smtp, settings.smtps) and any(url.names(host) for host in settings.hosts):
        raise settings.config_error(
            "relay_to", "is this server itself, which would cause a mail loop; use the address of another server"
        )
    proved = url.implicit_tls or settings.relay_ca is not None
    if proved and settings.relay_tls not in (None, REQUIRED):
        reason = "smtps:// always uses TLS" if url.implicit_tls else f"{settings.names('relay_ca')} is set"
        raise settings.config_error("relay_tls", f"must be {REQUIRED}, because {reason}")
    secret = proved or url.user is not None
    how = settings.relay_tls or (REQUIRED if secret else OPPORTUNISTIC)
    if settings.relay_clear_text_login and (how != NO_TLS or url.user is None):
        raise settings.config_error(
            "relay_clear_text_login", f"requires a user name in the URL and {settings.names('relay_tls')} {NO_TLS}"
        )
    login = _login(settings, url)
    _check_mechanism(settings, login, how)
    context = None if how == NO_TLS else _context(settings, proving=how == REQUIRED)
    try:
        return server.NextHop(
            host=url.host,
            port=url.port,
            implicit_tls=url.implicit_tls,
            tls_required=how == REQUIRED,
            ssl_context=context,
            login=login,
            clear_text_login=settings.relay_clear_text_login,
            mechanism=settings.relay_mechanism,
            max_sessions=settings.relay_sessions,
            strict_syntax=settings.strict,
        )
    except ValueError as error:  # of the login: the other values have been checked
        raise settings.config_error("relay_password_file", str(error)) from error


def _check_mechanism(settings: Settings, login: server.Login | None, how: str) -> None:
    """Raise ConfigError if the mechanism cannot be used with the other settings."""
    mechanism = settings.relay_mechanism
    if mechanism is None:
        return
    if login is None:
        raise settings.config_error("relay_mechanism", "requires a user name in the URL")
    unbound = mechanism.removesuffix("-PLUS")
    if how != NO_TLS:
        return
    if mechanism != unbound:
        raise settings.config_error("relay_mechanism", f"{mechanism} requires TLS; use {unbound}")
    if not mechanism.startswith("SCRAM-") and not settings.relay_clear_text_login:
        clear = settings.names("relay_clear_text_login")
        raise settings.config_error(
            "relay_mechanism", f"{mechanism} without TLS requires {clear}; or use SCRAM-SHA-256"
        )


def _login(settings: Settings, url: NextHopUrl) -> server.Login | None:
    path = settings.relay_password_file
    if (url.user is None) != (path is None):
        raise settings.config_error(
            "relay_to" if path is None else "relay_password_file",
            "a user name in the URL and a password file must be set together; set both or neither",
        )
    if url.user is None or path is None:
        return None
    password = secret_file.read(settings, "relay_password_file", path)
    try:
        return server.Login(name=url.user, password=password)
    except ValueError as error:
        raise settings.config_error("relay_password_file", f"{path}: {error}") from error


def _context(settings: Settings, *, proving: bool) -> ssl.SSLContext:
    path = settings.relay_ca
    try:
        if path is not None:
            read_file(path)  # OpenSSL would wait for a pipe
        context = ssl.create_default_context(cafile=path)
    except ssl.SSLError as error:
        raise settings.config_error("relay_ca", f"{path} contains no certificates in PEM format") from error
    except OSError as error:
        raise settings.config_error("relay_ca", f"{path} cannot be read: {error.strerror}") from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2  # RFC 8996
    if not proving:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def warnings(settings: Settings) -> list[str]:
    """Return the start-up lines about the next hop: where mail goes, and what is not protected."""
    url = settings.relay_to
    hop = next_hop(settings)
    if url is None or hop is None:
        return []
    lines = [f"Remote mail is relayed to {hop}."]
    if url.host.removesuffix(".").lower() in settings.domains and url.port in (settings.smtp, settings.smtps):
        lines.append("The relay has the name and a port of this server: if it is this server, remote mail gets 451.")
    if hop.ssl_context is None:
        lines.append("Remote mail is relayed in clear text, without TLS.")
        if hop.login is not None:
            how = "sends the password in clear text" if hop.clear_text_login else "uses SCRAM, without TLS"
            lines.append(f"The login to the relay {how}.")
    elif not hop.tls_required:
        if hop.login is None:
            lines.append("Mail is relayed in clear text if TLS is not available; the certificate is not verified.")
        else:
            lines.append("Mail and password are sent to the relay over TLS, but its certificate is not verified.")
    return lines
