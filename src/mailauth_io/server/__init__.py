"""The ready server: SMTP and POP3 sessions that answer the core's questions from stores, neutral to the loop.

``async with running(config, stores) as pair`` embeds it.  Knows no options and no signals; those belong to the command.
"""

from ._log import LOGGER as LOGGER
from ._offer import in_clear as in_clear
from ._relaying import look as look
from ._running import running as running
from .config import PORTS as PORTS, Config as Config, Pair as Pair, Stores as Stores
from .next_hop import Login as Login, NextHop as NextHop, Patience as Patience
