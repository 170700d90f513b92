"""SASL mechanisms, client and server side, as pure values (RFC 4422).  Knows nothing of SMTP or POP3."""

from ._messages import (
    Authenticated as Authenticated,
    AuthenticationFailed as AuthenticationFailed,
    AuthenticationStarted as AuthenticationStarted,
    Authorize as Authorize,
    Challenge as Challenge,
    CheckPassword as CheckPassword,
    ClientMechanism as ClientMechanism,
    Fault as Fault,
    FetchSecret as FetchSecret,
    Refusal as Refusal,
    ServerMechanism as ServerMechanism,
    ServerQuestion as ServerQuestion,
    Step as Step,
    Success as Success,
)
