"""The server: SMTP and POP3 sessions that answer the core's questions from stores, on asyncio or trio.

Embed it with ``async with serve(config, stores) as running``.  Command-line options and signals are in
``mailauth_io.cli``.
"""

from ._failed_logins import FailedLogins
from ._log import LOGGER
from ._offer import MECHANISMS, login_problem, without_tls
from ._serve import serve
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
from .next_hop import Login, NextHop, Timeouts
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
    "NextHop",
    "Pass",
    "PolicyService",
    "ReceivedMessage",
    "RunningServer",
    "SessionView",
    "Stores",
    "Timeouts",
    "login_problem",
    "serve",
    "without_tls",
]
