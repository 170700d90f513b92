"""The state of a server of the test kit that belongs to one test: ``MailServer.reset()`` makes a new one."""

from __future__ import annotations

import ssl
import threading
import traceback

import attrs

from mailauth import ACCEPT, smtp
from mailauth.grants import Lookup
from mailauth.policy import Decision, Reason, RelayPolicy

from ..adapters import Peer
from ..server.config import Stores
from ..server.state import ServerState
from ..stores import Hashing, MemoryAccounts, MemoryGrants, MemoryMaildrops
from ._secrets import ClearSecret, find_secret
from ._stores import Clock, EmptyOutbox, ExpiringTokens, RememberedGrants
from .message import Message
from .options import Options
from .rules import Answer, Occurrence, Rule, find_answer
from .transcript import TLS_FAILED, ConnectionTranscript, Transcript


@attrs.frozen(kw_only=True)
class _OpenRelay(RelayPolicy):
    """Accepts mail for other domains from every client.  Grants are still looked up, for the envelope."""

    def decide(
        self,
        forward_path: smtp.Mailbox,
        *,
        identity: str | None,
        grant: Lookup,
        reverse_path: smtp.Mailbox | None = None,
    ) -> Decision:
        decision = RelayPolicy.decide(self, forward_path, identity=identity, grant=grant, reverse_path=reverse_path)
        return attrs.evolve(decision, verdict=ACCEPT) if decision.reason is Reason.NO_GRANT else decision


class CurrentTest:
    """The state of the test that runs.  It is the Journal of the machines."""

    def __init__(self, options: Options, hashing: Hashing, changed: threading.Condition) -> None:
        self.options = options
        self.clock = Clock()
        self.tokens = ExpiringTokens(self.clock)
        self.grants = RememberedGrants(MemoryGrants(lifetime=options.grant_lifetime or 1.0, clock=self.clock))
        self.maildrops = MemoryMaildrops()
        self.state = ServerState.of(
            options.config(),
            Stores(
                accounts=MemoryAccounts({name: password.encode() for name, password in options.users.items()}),
                maildrops=self.maildrops,
                outbox=EmptyOutbox(),
                grants=self.grants if options.grant_lifetime else None,
                tokens=self.tokens,
                hashing=hashing,
            ),
            self.clock,
            on_error=self.session_failed,
        )
        if options.open_relay:
            self.state = attrs.evolve(self.state, policy=_OpenRelay(domains=self.state.policy.domains))
        self.starttls_injected = options.starttls == "injected"
        offered = options.starttls != "stripped"
        self.smtp_settings = attrs.evolve(self.state.smtp_settings(), starttls=offered)
        self.pop3_settings = attrs.evolve(self.state.pop3_settings(), stls=offered)
        self.transcript = Transcript()
        self.open_connections: dict[tuple[str, Peer], ConnectionTranscript] = {}
        """By the name of the port too: a client may connect to two ports from one of its own."""
        self.rules: list[Rule] = []
        self.messages: list[Message] = []
        self.returned: list[Message] = []
        """The messages that ``wait_for_message()`` has returned."""
        self.secrets: list[ClearSecret] = []
        self.errors: list[Exception] = []
        self._changed = changed

    def session_failed(self, error: Exception, peer: Peer) -> None:
        self.errors.append(error)

    def connected(self, service: str, peer: Peer) -> None:
        """Begin the transcript of a connection: with implicit TLS, before the handshake."""
        self.open_connections[service, peer] = self.transcript.open(service, peer.address)

    def tls_failed(self, service: str, peer: Peer, error: OSError) -> None:
        """Note a failed handshake in the transcript of its connection."""
        if isinstance(error, ssl.SSLError) and error.reason:
            reason = error.reason.replace("_", " ").lower()
        else:
            reason = str(error) or type(error).__name__
        self.open_connections[service, peer].note(f"{TLS_FAILED}: {reason}")

    def rule_answer(self, occurrence: Occurrence) -> Answer | None:
        return find_answer(tuple(self.rules), occurrence)

    def message_accepted(self, message: Message) -> None:
        with self._changed:
            self.messages.append(message)
            self._changed.notify_all()

    def sent_in_clear(self, data: bytes, connection: ConnectionTranscript) -> None:
        found = find_secret(data, connection, self.options.users, self.tokens.owners)
        if found is not None:
            self.secrets.append(found)

    def grant_of(self, address: str, recipient: smtp.Mailbox) -> str | None:
        # The server looks up no grant for a local recipient: one that it has found before may have expired.
        return None if self.state.policy.is_local(recipient) else self.grants.last_found(address)

    @property
    def problems(self) -> list[str]:
        """The reasons to fail the test: exceptions in the server, and rules that were not used up."""
        problems = ["".join(traceback.format_exception(error)) for error in self.errors]
        if self.options.unused_rules == "fail":
            problems += [rule.problem for rule in self.rules if rule.problem is not None]
        return problems
