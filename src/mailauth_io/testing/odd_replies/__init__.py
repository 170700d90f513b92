"""Odd replies that real servers send, for ``Rule.reply()``: ``odd_replies.smtp`` and ``odd_replies.pop3``.

``smtp.ALL`` and ``pop3.ALL`` contain all of them by name, to run one test with each.
"""

from __future__ import annotations

from . import pop3, smtp
from ._odd_reply import OddReply

__all__ = ["OddReply", "pop3", "smtp"]
