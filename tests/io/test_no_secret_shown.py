"""No secret in the repr of anything that ``mailauth serve`` makes of its options and files (house rule 5)."""

from __future__ import annotations

from pathlib import Path

from mailauth_io import stores
from mailauth_io.command import cli, config
from mailauth_io.server._house import House
from tests.io.server_support import Clock, Run, on_both_loops
from tests.test_any_secrets import SECRET, showing


@on_both_loops
def test_neither_settings_nor_accounts_show_a_secret(run: Run, tmp_path: Path) -> None:
    """Passwords, hashes, derived keys and tokens."""
    path = tmp_path / "users"
    path.touch(mode=0o600)
    lines = [f"{scheme.lower()}:{stores.write_credential(scheme, SECRET)}\n" for scheme in ("PLAIN", "SCRAM-SHA-256")]
    path.write_text("".join(lines))
    text = SECRET.decode()
    words = ["serve", "--user", f"alice:{text}", "--token", f"alice:{text}", "--accounts", str(path)]
    settings = cli.settings_of(cli.build_parser().parse_args(words))
    serving = config.read(settings)
    accounts = serving.stores.accounts
    house = House.of(serving.config, serving.stores, Clock())

    async def main() -> None:
        for name in ("alice", "plain", "scram-sha-256"):
            assert await accounts.check_password(name, SECRET)
            keys = await accounts.scram_keys(name, "sha256")
            assert repr(keys.stored_key) not in repr(keys)
            assert repr(keys.server_key) not in repr(keys)
        assert await accounts.token_owner(SECRET) == "alice"
        assert not showing(settings, serving, house)

    run(main)
    hashed = lines[1].partition("}")[2].split(",")[-1].strip()
    assert not showing(settings, serving, house, secrets=[hashed])
