"""The options for accounts and logins: users, passwords, mechanisms, tokens and certificates of clients."""

from __future__ import annotations

import os
import ssl
from pathlib import Path

import pytest
import trustme

from mailauth_io import server, stores
from mailauth_io.cli import config, main
from mailauth_io.cli.settings import OPTIONS
from mailauth_io.server import Authenticator
from mailauth_io.server.state import ServerState
from tests.io import loops
from tests.io.cli_options import USER, accounts_file, read
from tests.io.config_errors import config_error
from tests.io.server_support import Clock

pytestmark = pytest.mark.usefixtures("restored_process")


@pytest.mark.parametrize(
    ("users", "says"),
    [
        (("alice:",), "no password"),
        ((":secret",), "not a valid mailbox name"),
        (("../alice:secret",), "not a valid mailbox name"),
        (("al ice:secret",), "not a valid mailbox name"),
        ((f"{'a' * 65}:secret",), "not a valid mailbox name"),
        (("alice@elsewhere.test:secret",), "not a valid mailbox name"),
        (("alice:one", "ALICE:two"), "same mailbox"),
        (("alice:one", "alice@example.test:two"), "same mailbox"),
    ],
)
def test_invalid_account_is_reported_without_its_password(
    users: tuple[str, ...], says: str, capfd: pytest.CaptureFixture[str]
) -> None:
    said = config_error(capfd, "serve", *(word for user in users for word in ("--user", user)))
    assert says in said
    assert "secret" not in said
    assert "two" not in said


def test_user_without_a_colon_is_not_quoted_in_the_error(capfd: pytest.CaptureFixture[str]) -> None:
    assert "sesame" not in config_error(capfd, "serve", "--user", "sesame")


def test_user_splits_at_the_first_colon_and_keeps_blanks() -> None:
    options = main.build_parser().parse_args(["serve", "--user", "alice: open:sesame "])
    assert main.settings_of(options).users == (("alice", b" open:sesame "),)


def test_file_of_the_decoy_key_is_created_once_and_then_read(tmp_path: Path) -> None:
    path, accounts = tmp_path / "decoy-key", tmp_path / "accounts"
    accounts.touch(mode=0o600)
    accounts.write_text(f"alice:{stores.write_credential('SCRAM-SHA-256', b'open sesame')}\n")
    options = ("--accounts", str(accounts))
    without = read(*options)
    assert without.stores.decoy_key is None
    assert [warning for warning in without.warnings if "--decoy-key" in warning]
    setups = [read(*options, "--decoy-key", str(path)) for _ in range(2)]
    keys = {setup.stores.decoy_key for setup in setups}
    assert keys == {path.read_bytes().removesuffix(b"\n")}
    assert [len(key) for key in keys if key is not None] == [64]
    assert path.stat().st_mode & 0o777 == 0o600
    assert sorted(tmp_path.iterdir()) == [accounts, path]  # no temporary file is left
    assert not [warning for setup in setups for warning in setup.warnings if "decoy" in warning]


def test_processes_that_start_together_get_one_decoy_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "decoy-key"
    real = os.link

    def link(source: str, target: Path) -> None:
        monkeypatch.setattr(os, "link", real)
        found.append(read(*USER, "--decoy-key", str(path)).stores.decoy_key)  # another process comes first
        real(source, target)

    found: list[bytes | None] = []
    monkeypatch.setattr(os, "link", link)
    found.append(read(*USER, "--decoy-key", str(path)).stores.decoy_key)
    assert found[0] == found[1] == path.read_bytes().removesuffix(b"\n")


@pytest.mark.parametrize(
    ("content", "mode", "says"),
    [
        (b"secret\n", 0o600, "is too short for a key; remove the file"),
        (b"", 0o600, "is empty"),
        (b"k" * 64, 0o644, "is accessible to other users; run: chmod 600"),
        (None, 0o600, "is not a writable directory"),
    ],
)
def test_invalid_decoy_key(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], content: bytes | None, mode: int, says: str
) -> None:
    path = tmp_path / "none" / "key"
    if content is not None:
        path.parent.mkdir()
        path.touch(mode)
        path.write_bytes(content)
        path.chmod(mode)
    toml = tmp_path / "mailauth.toml"
    toml.touch(mode=0o600)
    toml.write_text(f'[accounts]\nusers = ["alice:open sesame"]\ndecoy_key = "{path}"\n')
    assert main.main(["check-config", str(toml)]) == 2
    assert f":3: [accounts] decoy_key: {path} {'cannot be created: ' * (content is None)}" in (
        said := capfd.readouterr().out
    )
    assert says in said
    said = config_error(capfd, "serve", *USER, "--decoy-key", str(path))
    assert said.startswith(f"mailauth serve: --decoy-key: {path} ")


def test_postmaster_must_be_an_account(capfd: pytest.CaptureFixture[str]) -> None:
    assert "unknown account: 'bob'" in config_error(capfd, "serve", *USER, "--postmaster", "bob")


def test_warning_about_secrets_on_the_command_line(tmp_path: Path) -> None:
    """Other users can see them in the list of processes.  In a file they cannot, so there is no warning."""

    def warned(*options: str) -> list[str]:
        return [line for line in read(*options).warnings if "on the command line" in line]

    users = (*USER, "--user", "bob:x")
    (warning,) = warned(*users)
    assert "--accounts" in warning
    assert "[accounts] users" in warning
    (_, warning) = warned(*USER, "--token", "alice:t0ken")
    assert "[accounts] tokens" in warning
    toml = tmp_path / "mailauth.toml"
    toml.touch(mode=0o600)
    toml.write_text('[accounts]\nusers = ["alice:open sesame"]\ntokens = ["alice:t0ken"]\n')
    assert not warned("--config", str(toml))
    assert len(warned("--config", str(toml), *USER)) == 1
    assert not any("sesame" in warning or "t0ken" in warning for warning in read(*USER).warnings)


def test_postmaster_setting_has_no_effect_beside_an_account_of_this_name() -> None:
    users = ("--user", "alice:x", "--user", "postmaster:y")
    says = "--postmaster has no effect: the account postmaster receives this mail."
    assert says in read(*users, "--postmaster", "alice").warnings
    for options in ((), ("--postmaster", "Postmaster@example.test")):
        assert says not in read(*users, *options).warnings


def test_postmaster_is_the_first_account_unless_named() -> None:
    users = (*USER, "--user", "bob:open poppy")
    assert read(*users).config.postmaster == "alice"
    assert read(*users, "--postmaster", "BOB@example.test").config.postmaster == "bob"


def test_accounts_file_and_user_option_can_be_combined(tmp_path: Path) -> None:
    setup = read("--user", "bob:open poppy", "--accounts", accounts_file(tmp_path))
    assert setup.config.postmaster == "bob"
    accounts = Authenticator(setup.stores.accounts)

    async def main() -> None:
        assert await accounts.check_password("alice", b"open sesame")
        assert await accounts.check_password("bob", b"open poppy")
        assert not await accounts.check_password("bob", b"open sesame")

    loops.named("asyncio").run(main)


@pytest.mark.parametrize("mode", [0o604, 0o644, 0o602])
def test_accounts_file_accessible_to_other_users_is_rejected(
    mode: int, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert "accessible to other users" in config_error(capfd, "serve", "--accounts", accounts_file(tmp_path, mode=mode))


def test_missing_accounts_file_is_rejected(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert "No such file" in config_error(capfd, "serve", "--accounts", str(tmp_path / "none"))


def test_directory_as_accounts_file_is_rejected(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert str(tmp_path) in config_error(capfd, "serve", "--accounts", str(tmp_path))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("sesame\n", "no colon"),
        ("alice:open sesame\n", "no password scheme"),
        ("alice:{SSHA}c2VzYW1l\n", "an unknown password scheme"),
        ("alice:{ARGON2ID}sesame\n", "an invalid"),
        ("alice:{PLAIN}\n", "no password"),
    ],
)
def test_invalid_accounts_file_is_rejected_without_showing_secrets(
    text: str, says: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = accounts_file(tmp_path, text)
    said = config_error(capfd, "serve", "--accounts", path)
    assert f"--accounts: line 1 of {path} has {says}" in said
    assert "sesame" not in said
    assert "c2VzYW1l" not in said


def test_account_in_both_the_file_and_an_option_is_rejected(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert "same mailbox" in config_error(capfd, "serve", *USER, "--accounts", accounts_file(tmp_path))


def test_mechanisms_limit_the_offer_and_the_warnings() -> None:
    assert read(*USER).config.mechanisms == server.MECHANISMS == OPTIONS["mechanisms"].default
    some = read(*USER, "--legacy", "--mechanism", "PLAIN", "--mechanism", "USER")
    assert some.config.mechanisms == ("PLAIN", "USER")
    assert "Logins without TLS are allowed: USER, PLAIN." in some.warnings
    assert not [warning for warning in some.warnings if "SCRAM" in warning or "CRAM-MD5" in warning]
    assert (
        "--legacy has no effect: without TLS, none of the mechanisms (XOAUTH2) works with every account."
        in read(*USER, "--legacy", "--mechanism", "XOAUTH2").warnings
    )


def test_legacy_with_a_mechanism_that_no_account_supports_has_no_effect(tmp_path: Path) -> None:
    path = accounts_file(tmp_path, f"alice:{stores.write_credential('SCRAM-SHA-256', b'open sesame')}\n")
    warnings = read("--accounts", path, "--legacy", "--mechanism", "CRAM-MD5").warnings
    assert (
        "--legacy has no effect: without TLS, none of the mechanisms (CRAM-MD5) works with every account." in warnings
    )
    assert not [warning for warning in warnings if warning.startswith("Logins without TLS")]


@pytest.mark.parametrize(
    ("mechanism", "scheme", "listen", "possible"),
    [
        ("CRAM-MD5", "SHA512-CRYPT", "", False),
        ("SCRAM-SHA-256", "SHA512-CRYPT", "", False),
        ("SCRAM-SHA-1", "SCRAM-SHA-256", "", False),
        ("XOAUTH2", "PLAIN", "", False),
        ("USER", "PLAIN", "smtp = 25", False),
        ("USER", "PLAIN", "smtp = 25\npop3 = 110", True),
        ("USER", "PLAIN", "", True),
        ("SCRAM-SHA-256", "SCRAM-SHA-256", "", True),
        ("CRAM-MD5", "PLAIN", "", True),
        ("PLAIN", "SHA512-CRYPT", "", True),
    ],
)
def test_check_config_reports_mechanisms_that_let_nobody_log_in(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], mechanism: str, scheme: str, listen: str, possible: bool
) -> None:
    accounts_file(tmp_path, f"alice:{stores.write_credential(scheme, b'open sesame')}\n")
    path = tmp_path / "mailauth.toml"
    path.write_text(f'[accounts]\nfile = "accounts"\nmechanisms = ["{mechanism}"]\n[listen]\n{listen}\n')
    status = main.main(["check-config", str(path)])
    reported = (
        f"{path}:3: [accounts] mechanisms: No login is possible: none of the mechanisms ({mechanism}) is supported by "
        "every account and by the protocols of the ports; add PLAIN, which works with every stored password\n"
    )
    assert (status, capfd.readouterr().out) == ((0, f"{path}: OK\n") if possible else (2, reported))


def test_tokens_let_accounts_log_in(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "mailauth.toml"
    path.write_text('[accounts]\nusers = ["a:b"]\ntokens = ["a:t"]\nmechanisms = ["XOAUTH2"]\n')
    path.chmod(0o600)
    assert (main.main(["check-config", str(path)]), capfd.readouterr().out) == (0, f"{path}: OK\n")


def test_unknown_mechanism_is_rejected(capfd: pytest.CaptureFixture[str]) -> None:
    assert "argument --mechanism: invalid value: 'plain'; use one of PLAIN, LOGIN" in config_error(
        capfd, "serve", "--mechanism", "plain"
    )
    expected = "unknown mechanism 'GSSAPI'; use some of PLAIN, LOGIN, .* needs a session of its own [(]docs/sasl.md[)]"
    with pytest.raises(ValueError, match=expected):
        server.Config(mechanisms=("GSSAPI",))


def test_invalid_token_is_not_quoted_in_the_error(capfd: pytest.CaptureFixture[str]) -> None:
    assert "sesame" not in config_error(capfd, "serve", "--token", "sesame")


@pytest.mark.parametrize(
    "words", [("--token", "bob:t0ken"), ("--client-name", "CN:x=bob", "--client-ca", "x"), ("--token", ":t0ken")]
)
def test_token_or_certificate_for_an_unknown_account_is_rejected(
    words: tuple[str, ...], capfd: pytest.CaptureFixture[str]
) -> None:
    said = config_error(capfd, "serve", *USER, *words)
    assert "unknown account" in said
    assert "t0ken" not in said


def proofs_of(setup: config.ServerSetup) -> frozenset[stores.Proof]:
    return ServerState.of(setup.config, setup.stores, Clock()).authenticator.proofs


def test_token_option_enables_login_by_token() -> None:
    proofs = proofs_of(read(*USER, "--token", "Alice@example.test:t0ken"))
    assert stores.Proof.TOKEN in proofs
    assert stores.Proof.TOKEN not in proofs_of(read(*USER))


def test_client_ca_option_requests_client_certificates(authority: trustme.CA, tmp_path: Path) -> None:
    certificates = tmp_path / "clients.pem"
    authority.cert_pem.write_to_path(str(certificates))
    words = ("--client-ca", str(certificates), "--client-name", "email:a@Example.test=alice")
    serving_ = read(*USER, *words)
    assert serving_.config.ssl_context is not None
    assert serving_.config.ssl_context.verify_mode is ssl.CERT_OPTIONAL
    assert stores.Proof.CERTIFICATE in proofs_of(serving_)
    without = read(*USER).config.ssl_context
    assert without is not None
    assert without.verify_mode is ssl.CERT_NONE


def test_client_ca_and_client_name_must_be_set_together(capfd: pytest.CaptureFixture[str]) -> None:
    assert "must be set together" in config_error(capfd, "serve", *USER, "--client-ca", "x")
    assert "must be set together" in config_error(capfd, "serve", *USER, "--client-name", "CN:x=alice")


@pytest.mark.parametrize(
    ("text", "says"), [(None, "cannot be read"), ("certificate", "contains no certificates in PEM")]
)
def test_missing_or_invalid_client_ca_is_rejected(
    text: str | None, says: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "clients.pem"
    if text is not None:
        path.write_text(text)
    said = config_error(capfd, "serve", *USER, "--client-ca", str(path), "--client-name", "CN:x=alice")
    assert f"--client-ca: {path} {says}" in said


def test_warnings_report_unavailable_mechanisms_and_mixed_schemes(tmp_path: Path) -> None:
    crypt = "bob:{BLF-CRYPT}$2y$05$wQy/3Oy/wVrzX/bYBv.m8.KNe8n9cH7lPzt.EqwsaAUEDrvC5O3Ei\n"
    plain = "alice:{PLAIN}open sesame\n"
    hashed = " ".join(read("--accounts", accounts_file(tmp_path, crypt)).warnings)
    timing_warning = " ".join(read("--accounts", accounts_file(tmp_path, plain + crypt)).warnings)
    for warnings in (hashed, timing_warning):
        assert "CRAM-MD5, APOP and SCRAM-SHA-1 are not available: " in warnings
        assert "SCRAM-SHA-256 is not available: " in warnings
    assert "different schemes or costs" in timing_warning
    assert "different schemes or costs" not in hashed
    assert not any("not available" in warning for warning in read(*USER).warnings)


@pytest.mark.parametrize("password", ["\U0001f511", "\u00ad", os.fsdecode(b"caf\xe9")])
def test_password_that_is_invalid_for_scram_disables_scram(password: str) -> None:
    """RFC 4013 section 2.5: unassigned in Unicode 3.2, empty after mapping, or not valid UTF-8."""
    serving_ = read(*USER, "--user", f"bob:{password}")
    proofs = proofs_of(serving_)
    assert not proofs & {stores.Proof.SCRAM_SHA_1, stores.Proof.SCRAM_SHA_256}
    assert proofs >= {stores.Proof.PASSWORD, stores.Proof.SECRET}
    assert [warning for warning in serving_.warnings if "RFC 4013" in warning]
    assert "SCRAM-SHA-256" not in serving_.config.smtp_settings(proofs).mechanisms


@pytest.mark.parametrize(("password", "says"), [(b"won\tderland", True), (b"a\xc2\x85", True), (b"wonderland", False)])
def test_warning_reports_password_that_plain_refuses(tmp_path: Path, password: bytes, says: bool) -> None:
    path = Path(accounts_file(tmp_path, ""))
    path.write_bytes(b"alice:{PLAIN}" + password + b"\n")
    found = [warning for warning in read("--accounts", str(path)).warnings if "PLAIN refuses the password" in warning]
    assert bool(found) == says


@pytest.mark.parametrize("strict", [False, True])
def test_warning_reports_latin_1_password_if_syntax_is_strict(tmp_path: Path, strict: bool) -> None:
    path = Path(accounts_file(tmp_path, ""))
    path.write_bytes(b"alice:{PLAIN}gr\xfcn\n")
    warnings = read("--accounts", str(path), *(["--strict"] if strict else [])).warnings
    assert any("SCRAM is not available" in warning for warning in warnings)
    assert any("PLAIN and USER refuse the password" in warning for warning in warnings) == strict


def test_warnings_report_mechanisms_unavailable_with_stored_keys(tmp_path: Path) -> None:
    path = accounts_file(tmp_path, f"alice:{stores.write_credential('SCRAM-SHA-256', b'open sesame')}\n")
    warnings = " ".join(read("--accounts", path).warnings)
    assert "CRAM-MD5, APOP and SCRAM-SHA-1 are not available: " in warnings
    assert "SCRAM-SHA-256 is not available" not in warnings
