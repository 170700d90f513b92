"""The server: SMTP and POP3 sessions that answer the core's questions from stores, on asyncio or trio.

Embed it with ``async with serve(config, stores) as running``.  Command-line options and signals are in
``mailauth_io.cli``.
"""

from ._failed_logins import FailedLogins
from ._log import LOGGER
from ._offer import MECHANISMS, login_problem, without_tls
from ._relay import check_next_hop
from ._serve import serve
from ._session_limiter import Place, RelayClient, SessionLimiter
from .authenticator import Authenticator
from .config import PORTS, Config, RunningServer, Stores
from .interceptors import (
    DROP,
    PASS,
    Answer,
    Decision,
    Delay,
    Drop,
    Interceptor,
    InterceptorFunction,
    Pass,
    ReceivedMessage,
    SessionView,
)
from .next_hop import Login, LoginHistory, NextHop, Timeouts, TlsFailure
from .policy_service import PolicyService

__all__ = [
    "DROP",
    "LOGGER",
    "MECHANISMS",
    "PASS",
    "PORTS",
    "Answer",
    "Authenticator",
    "Config",
    "Decision",
    "Delay",
    "Drop",
    "FailedLogins",
    "Interceptor",
    "InterceptorFunction",
    "Login",
    "LoginHistory",
    "NextHop",
    "Pass",
    "Place",
    "PolicyService",
    "ReceivedMessage",
    "RelayClient",
    "RunningServer",
    "SessionLimiter",
    "SessionView",
    "Stores",
    "Timeouts",
    "TlsFailure",
    "check_next_hop",
    "login_problem",
    "serve",
    "without_tls",
]
