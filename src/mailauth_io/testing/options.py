"""The options of the server of the test kit."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Final, Literal, TypeAlias, TypedDict, cast, get_args

import attrs

from .._checks import check_collection, check_text, check_type
from ..server.config import Config
from ..stores import mailbox_name
from ._certificates import CertificateKind

StartTlsKind: TypeAlias = Literal["offered", "stripped", "injected"]
"""What the server does with STARTTLS and STLS: see ``Options``."""

UnusedRules: TypeAlias = Literal["fail", "ignore"]
"""What happens if a rule or a network fault was not used: see ``Options``."""

_USERS: Final = ("alice", "bob")


def _one_of(choices: object) -> Any:
    allowed = get_args(choices)

    def check(instance: object, attribute: attrs.Attribute[str], value: object) -> None:
        if value not in allowed:
            raise ValueError(f"{attribute.name} must be one of {', '.join(map(repr, allowed))}, not {value!r}")

    return check


def _passwords(users: Collection[str] | Mapping[str, str]) -> dict[str, str]:
    """Return the passwords by name.  A name without one gets ``NAME-password``."""
    if isinstance(users, str) or not isinstance(users, Collection):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"users must be names or a dict of passwords, such as ('alice', 'bob'), not {users!r}")
    passwords = {name: f"{name}-password" for name in users}
    if isinstance(users, Mapping):
        passwords.update(cast("Mapping[str, str]", users))
    for name, password in cast("dict[object, object]", passwords).items():
        if not isinstance(name, str) or mailbox_name(name, frozenset()) != name:
            raise ValueError(f"users: {name!r} is not the name of an account; use a name such as 'alice'")
        if not isinstance(password, str) or not password:
            raise ValueError(f"users: the password of {name!r} must be a str that is not empty")
        if any(each in "\0\r\n" or "\ud800" <= each <= "\udfff" for each in password):
            raise ValueError(f"users: the password of {name!r} must not contain NUL, CR, LF or a surrogate")
    return passwords


def _names(names: Collection[str] | None) -> tuple[str, ...] | None:
    if names is not None:
        check_collection("mechanisms", names, "names such as ('PLAIN', 'LOGIN')")
    return None if names is None else tuple(names)


def _check_bool(instance: object, attribute: attrs.Attribute[bool], value: object) -> None:
    check_type(attribute.name, value, bool)


@attrs.frozen(kw_only=True)
class Options:
    """What a test can configure: the arguments of ``mail_server(...)`` and of the marker ``mail_server``.

    Raises TypeError or ValueError for an invalid value.

    Fields:

    users
        The names of the accounts, whose passwords are ``NAME-password``; or a dict of names and passwords.
    domain
        The domain of the server.  Mail for its accounts is in their maildrops.
    certificate
        ``"valid"``; or ``"expired"``, ``"wrong_host"`` (not valid for localhost) or ``"untrusted"`` (signed by another
        CA than that of ``ca_file``).
    starttls
        ``"offered"``; ``"stripped"``: neither STARTTLS nor STLS is offered, as if an attacker had removed it (RFC 3207
        section 6); or ``"injected"``: a second reply follows the reply to STARTTLS or STLS before TLS begins.  A client
        must discard it or end the session (RFC 3207 section 4.2).
    legacy
        Offer and accept passwords and MD5 digests without TLS.
    mechanisms
        The names of the login mechanisms; USER and APOP are those of POP3.  None: all of them.
    max_message_size
        The maximum size of a message in bytes, announced as SIZE in the reply to EHLO.  None: the default of
        ``server.Config``.
    grant_lifetime
        The lifetime of a grant (POP before SMTP) in seconds; 0: a POP3 login makes no grant.
    open_relay
        Accept mail for other domains without a login and without a grant.
    max_failed_logins
        The number of failed logins after which the server ends a session, at least three.
    unused_rules
        ``"fail"``: a rule that was not used up fails the test, and so does a network fault that had no effect; or
        ``"ignore"``.

    For example:

        @pytest.mark.mail_server(users=["carol"], certificate="expired")
        def test_expired_certificate(mail_server): ...
    """

    users: Mapping[str, str] = attrs.field(default=_USERS, converter=_passwords)  # pyright: ignore[reportAssignmentType]  # before conversion
    domain: str = "example.test"
    certificate: CertificateKind = attrs.field(default="valid", validator=_one_of(CertificateKind))
    starttls: StartTlsKind = attrs.field(default="offered", validator=_one_of(StartTlsKind))
    legacy: bool = attrs.field(default=True, validator=_check_bool)
    mechanisms: tuple[str, ...] | None = attrs.field(default=None, converter=_names)
    max_message_size: int | None = None
    grant_lifetime: float = 1800.0
    open_relay: bool = attrs.field(default=False, validator=_check_bool)
    max_failed_logins: int = 10
    unused_rules: UnusedRules = attrs.field(default="fail", validator=_one_of(UnusedRules))

    def __attrs_post_init__(self) -> None:
        check_text("domain", self.domain)
        self.config()

    def config(self) -> Config:
        """Return the configuration of the server, without ports and TLS.  Raises TypeError or ValueError."""
        options: dict[str, Any] = {"mechanisms": self.mechanisms, "max_message_size": self.max_message_size}
        return Config(
            domains=(self.domain,),
            legacy=self.legacy,
            failure_delay=0.0,
            max_failed_logins=self.max_failed_logins,
            grant_lifetime=self.grant_lifetime,
            **{name: value for name, value in options.items() if value is not None},
        )


class OptionArguments(TypedDict, total=False):
    """The arguments of ``Options``, for functions that pass them on.

    For example:

        options: testing.OptionArguments = {"users": ["carol"], "certificate": "expired"}
        with testing.mail_server(**options) as server:
            print(server.ca_file)
    """

    users: Collection[str] | Mapping[str, str]
    domain: str
    certificate: CertificateKind
    starttls: StartTlsKind
    legacy: bool
    mechanisms: Collection[str] | None
    max_message_size: int | None
    grant_lifetime: float
    open_relay: bool
    max_failed_logins: int
    unused_rules: UnusedRules
