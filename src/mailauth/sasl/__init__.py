"""SASL mechanisms, client and server side, as pure values (RFC 4422).  Knows nothing of SMTP or POP3."""

from ._base64 import decode_base64 as decode_base64, encode_base64 as encode_base64
from ._exchange import ClientExchange as ClientExchange, ServerExchange as ServerExchange
from ._fields import is_message_id as is_message_id
from ._md5 import MD5_AVAILABLE as MD5_AVAILABLE
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
from ._offer import (
    DEFAULT_MECHANISMS as DEFAULT_MECHANISMS,
    Context as Context,
    Mechanisms as Mechanisms,
    ServerFactory as ServerFactory,
)
from .apop import ApopClient as ApopClient, ApopServer as ApopServer
from .cram_md5 import CramMd5Client as CramMd5Client, CramMd5Server as CramMd5Server
from .login import LoginClient as LoginClient, LoginServer as LoginServer
from .plain import PlainClient as PlainClient, PlainServer as PlainServer
from .saslprep import saslprep as saslprep
from .user_pass import UserPassClient as UserPassClient, UserPassServer as UserPassServer
