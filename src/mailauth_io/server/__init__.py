"""The server: SMTP and POP3 sessions that answer the core's questions from stores, on asyncio or trio.

Embed it with ``async with serve(config, stores) as running``.  Command-line options and signals are in
``mailauth_io.cli``.
"""

from ._authenticator import Authenticator as Authenticator
from ._log import LOGGER as LOGGER
from ._offer import without_tls as without_tls
from ._relay import check_next_hop as check_next_hop
from ._serve import serve as serve
from .config import PORTS as PORTS, Config as Config, RunningServer as RunningServer, Stores as Stores
from .next_hop import Login as Login, NextHop as NextHop, Timeouts as Timeouts
