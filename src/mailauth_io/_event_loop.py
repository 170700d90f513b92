"""The adapter for the running event loop, for code that works on asyncio and trio."""

from __future__ import annotations

import importlib.util
from typing import Protocol, TypeVar

import sniffio

from .adapters.functions import Connect, Serve, ServePop3, ServeSmtp

E = TypeVar("E")


class Adapter(Protocol):
    """The interface of ``on_asyncio`` and ``on_trio``; see their docstrings."""

    @property
    def serve(self) -> Serve: ...

    @property
    def serve_smtp(self) -> ServeSmtp: ...

    @property
    def serve_pop3(self) -> ServePop3: ...

    @property
    def connect(self) -> Connect: ...


def current_adapter() -> Adapter:
    """Return the adapter for the running event loop.  Raises RuntimeError if there is none."""
    if sniffio.current_async_library() == "trio":
        from . import on_trio

        return on_trio
    from . import on_asyncio

    return on_asyncio


def check_event_loop(name: str) -> None:
    """Check that the event loop *name*, ``asyncio`` or ``trio``, is installed.

    Raises ImportError, which names the package to install.
    """
    if importlib.util.find_spec(name) is None:
        raise ImportError(f"the {name} loop needs the package {name}: pip install 'mailauth[{name}]'")
