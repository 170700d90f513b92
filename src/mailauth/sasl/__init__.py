"""SASL mechanisms, client and server side (RFC 4422).

This package does no I/O and is independent of SMTP and POP3.
"""

from ._base64 import decode_base64 as decode_base64, encode_base64 as encode_base64
from ._exchange import MAX_LINE as MAX_LINE, ClientExchange as ClientExchange, ServerExchange as ServerExchange
from ._fields import is_message_id as is_message_id
from ._md5 import MD5_AVAILABLE as MD5_AVAILABLE
from ._messages import (
    Authenticated as Authenticated,
    AuthenticationFailed as AuthenticationFailed,
    AuthenticationStarted as AuthenticationStarted,
    Authorize as Authorize,
    Challenge as Challenge,
    CheckExternal as CheckExternal,
    CheckPassword as CheckPassword,
    CheckToken as CheckToken,
    ClientMechanism as ClientMechanism,
    Fault as Fault,
    FetchScramKeys as FetchScramKeys,
    FetchSecret as FetchSecret,
    NonPasswordQuestion as NonPasswordQuestion,
    PasswordQuestion as PasswordQuestion,
    Refusal as Refusal,
    ScramKeys as ScramKeys,
    ServerMechanism as ServerMechanism,
    ServerQuestion as ServerQuestion,
    Step as Step,
    Success as Success,
)
from ._offer import (
    ALL_MECHANISMS as ALL_MECHANISMS,
    DEFAULT_MECHANISMS as DEFAULT_MECHANISMS,
    Context as Context,
    Mechanisms as Mechanisms,
    ServerFactory as ServerFactory,
    check_offer as check_offer,
    is_possible as is_possible,
    tls_capabilities as tls_capabilities,
)
from ._password_mechanisms import password_mechanisms as password_mechanisms
from .apop import ApopClient as ApopClient, ApopServer as ApopServer
from .cram_md5 import CramMd5Client as CramMd5Client, CramMd5Server as CramMd5Server
from .external import ExternalClient as ExternalClient, ExternalServer as ExternalServer
from .login import LoginClient as LoginClient, LoginServer as LoginServer
from .oauthbearer import OauthBearerClient as OauthBearerClient, OauthBearerServer as OauthBearerServer
from .plain import PlainClient as PlainClient, PlainServer as PlainServer
from .saslprep import saslprep as saslprep
from .scram import (
    MAX_ITERATIONS as MAX_ITERATIONS,
    ScramDecoy as ScramDecoy,
    ScramSha1Client as ScramSha1Client,
    ScramSha1PlusClient as ScramSha1PlusClient,
    ScramSha1PlusServer as ScramSha1PlusServer,
    ScramSha1Server as ScramSha1Server,
    ScramSha256Client as ScramSha256Client,
    ScramSha256PlusClient as ScramSha256PlusClient,
    ScramSha256PlusServer as ScramSha256PlusServer,
    ScramSha256Server as ScramSha256Server,
    scram_keys as scram_keys,
)
from .user_pass import UserPassClient as UserPassClient, UserPassServer as UserPassServer
from .xoauth2 import Xoauth2Client as Xoauth2Client, Xoauth2Server as Xoauth2Server
