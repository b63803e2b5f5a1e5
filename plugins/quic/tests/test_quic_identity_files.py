"""The node's own key: made once, kept, guarded."""

from __future__ import annotations

import datetime
import os
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from quic_certificates import authority, issue
from quic_helpers import process

from echokernel.errors import ConfigError
from echokernel_quic import identity
from echokernel_quic.fingerprints import is_fingerprint
from echokernel_quic.identity import CERTIFICATE_FILE, KEY_FILE, load_identity, own_fingerprint, self_signed_identity


def test_it_is_made_once_and_only_its_owner_can_read_it(state_dir: Path) -> None:
    assert own_fingerprint() is None
    assert not state_dir.exists()
    first = self_signed_identity()
    assert is_fingerprint(first.fingerprint)
    assert self_signed_identity().fingerprint == first.fingerprint == own_fingerprint()
    assert state_dir.stat().st_mode & 0o777 == 0o700
    assert {path.name: path.stat().st_mode & 0o777 for path in state_dir.iterdir()} == {
        KEY_FILE: 0o600,
        CERTIFICATE_FILE: 0o600,
    }
    names = first.certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [str(name.value) for name in names] == ["localhost", "127.0.0.1", "::1"]


def test_racing_processes_get_the_same_key(state_dir: Path) -> None:
    code = "from echokernel_quic.identity import self_signed_identity as s; print(s().fingerprint)"
    racing: list[subprocess.Popen[str]] = [process(code) for _ in range(4)]
    seen = {runner.communicate(timeout=30)[0].strip() for runner in racing}
    assert seen == {self_signed_identity().fingerprint}
    assert sorted(path.name for path in state_dir.iterdir()) == sorted([KEY_FILE, CERTIFICATE_FILE])


def test_an_expired_certificate_is_replaced_and_the_key_kept(state_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identity, "CERTIFICATE_DAYS", 10)
    first = self_signed_identity()
    monkeypatch.undo()
    os.environ["ECHOKERNEL_STATE_DIR"] = str(state_dir)
    second = self_signed_identity()
    assert second.certificate != first.certificate
    assert second.fingerprint == first.fingerprint
    assert second.certificate.not_valid_after_utc > datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=100)
    assert second.derive(b"x") == first.derive(b"x") != first.derive(b"y")


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX modes")
def test_a_key_that_others_can_read_is_refused_with_the_remedy(state_dir: Path) -> None:
    self_signed_identity()
    (state_dir / KEY_FILE).chmod(0o640)
    with pytest.raises(ConfigError, match=f"chmod 600 {state_dir / KEY_FILE}"):
        self_signed_identity()


@pytest.mark.parametrize("directory", ["echokernel state dir", "xdg", "home"])
def test_where_it_is_kept(directory: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ECHOKERNEL_STATE_DIR")
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    expected = tmp_path / ".local/state/echokernel"
    if directory == "xdg":
        monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "xdg"))
        expected = tmp_path / "xdg/echokernel"
    elif directory == "echokernel state dir":
        monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "xdg"))
        monkeypatch.setenv("ECHOKERNEL_STATE_DIR", str(tmp_path / "own"))
        expected = tmp_path / "own"
    assert identity.state_directory() == expected


def test_bad_files_are_named(tmp_path: Path) -> None:
    ca, key = authority(tmp_path / "ca.pem")
    good = issue(tmp_path / "good.pem", ca, key, "127.0.0.1")
    other = issue(tmp_path / "other.pem", ca, key, "127.0.0.1")
    assert load_identity(str(good)).fingerprint
    junk = tmp_path / "junk.pem"
    junk.write_text("nothing")
    junk.chmod(0o600)
    public = tmp_path / "public.pem"
    public.write_bytes(ca.public_bytes(Encoding.PEM))
    public.chmod(0o600)
    for certificate, private, message in (
        (tmp_path / "missing.pem", None, "missing.pem: No such file"),
        (junk, None, "junk.pem: not a PEM certificate"),
        (good, tmp_path / "missing.key", "missing.key: No such file"),
        (good, junk, "junk.pem: not an unencrypted PEM private key"),
        (public, None, "public.pem: not an unencrypted PEM private key"),
        (good, other, "other.pem does not belong"),
    ):
        with pytest.raises(ConfigError, match=message):
            load_identity(str(certificate), str(private) if private else None)


def test_repr_shows_no_key() -> None:
    assert repr(self_signed_identity()).startswith("Identity(sha256:")
