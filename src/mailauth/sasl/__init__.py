"""SASL mechanisms, client and server side (RFC 4422).

This package does no I/O and is independent of SMTP and POP3.
"""

from ._after_refusal import MAX_RETRIES, mechanisms_after_refusal
from ._base64 import decode_base64, encode_base64
from ._fields import is_message_id
from ._md5 import MD5_AVAILABLE
from ._password_mechanisms import ChannelBinding, password_mechanisms
from .apop import ApopClient, ApopServer
from .cram_md5 import CramMd5Client, CramMd5Server
from .exchange import MAX_LINE, ClientExchange, ServerExchange
from .external import ExternalClient, ExternalServer
from .login import LoginClient, LoginServer
from .messages import (
    Authenticated,
    AuthenticationFailed,
    AuthenticationStarted,
    Authorize,
    Challenge,
    CheckExternal,
    CheckPassword,
    CheckToken,
    ClientMechanism,
    Fault,
    FetchScramKeys,
    FetchSecret,
    NonPasswordQuestion,
    PasswordQuestion,
    Refusal,
    ScramKeys,
    ServerMechanism,
    ServerQuestion,
    Step,
    Success,
)
from .oauthbearer import OauthBearerClient, OauthBearerServer
from .offer import (
    ALL_MECHANISMS,
    DEFAULT_MECHANISMS,
    Context,
    Mechanisms,
    ServerFactory,
    check_offer,
    is_possible,
    tls_capabilities,
)
from .plain import PlainClient, PlainServer
from .saslprep import saslprep
from .scram import (
    MAX_ITERATIONS,
    ScramDecoy,
    ScramSha1Client,
    ScramSha1PlusClient,
    ScramSha1PlusServer,
    ScramSha1Server,
    ScramSha256Client,
    ScramSha256PlusClient,
    ScramSha256PlusServer,
    ScramSha256Server,
    scram_keys,
)
from .user_pass import UserPassClient, UserPassServer
from .xoauth2 import Xoauth2Client, Xoauth2Server

__all__ = [
    "ALL_MECHANISMS",
    "DEFAULT_MECHANISMS",
    "MAX_ITERATIONS",
    "MAX_LINE",
    "MAX_RETRIES",
    "MD5_AVAILABLE",
    "ApopClient",
    "ApopServer",
    "Authenticated",
    "AuthenticationFailed",
    "AuthenticationStarted",
    "Authorize",
    "Challenge",
    "ChannelBinding",
    "CheckExternal",
    "CheckPassword",
    "CheckToken",
    "ClientExchange",
    "ClientMechanism",
    "Context",
    "CramMd5Client",
    "CramMd5Server",
    "ExternalClient",
    "ExternalServer",
    "Fault",
    "FetchScramKeys",
    "FetchSecret",
    "LoginClient",
    "LoginServer",
    "Mechanisms",
    "NonPasswordQuestion",
    "OauthBearerClient",
    "OauthBearerServer",
    "PasswordQuestion",
    "PlainClient",
    "PlainServer",
    "Refusal",
    "ScramDecoy",
    "ScramKeys",
    "ScramSha1Client",
    "ScramSha1PlusClient",
    "ScramSha1PlusServer",
    "ScramSha1Server",
    "ScramSha256Client",
    "ScramSha256PlusClient",
    "ScramSha256PlusServer",
    "ScramSha256Server",
    "ServerExchange",
    "ServerFactory",
    "ServerMechanism",
    "ServerQuestion",
    "Step",
    "Success",
    "UserPassClient",
    "UserPassServer",
    "Xoauth2Client",
    "Xoauth2Server",
    "check_offer",
    "decode_base64",
    "encode_base64",
    "is_message_id",
    "is_possible",
    "mechanisms_after_refusal",
    "password_mechanisms",
    "saslprep",
    "scram_keys",
    "tls_capabilities",
]
