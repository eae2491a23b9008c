"""The signing secret: given, or made and kept in development."""

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest
from pydantic import SecretStr

from service.kept_secret import kept_secret
from service.settings import Settings

Make = Callable[..., Settings]


def test_a_development_secret_is_made_once_and_readable_by_its_owner_alone(
    make_settings: Make, tmp_path: Path
) -> None:
    settings = make_settings(jwt_secret=None)
    secret = settings.signing_secret()
    assert secret is not None
    assert len(secret) >= 32
    assert make_settings(jwt_secret=None).signing_secret() == secret
    (file,) = (tmp_path / "data").iterdir()
    assert file.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("mode", [0o666, 0o640, 0o604])
def test_a_secret_that_others_may_use_is_replaced_with_a_warning(
    make_settings: Make, tmp_path: Path, mode: int, caplog: pytest.LogCaptureFixture
) -> None:
    first = make_settings(jwt_secret=None).signing_secret()
    file = tmp_path / "data" / "jwt_secret"
    file.chmod(mode)
    second = make_settings(jwt_secret=None).signing_secret()
    assert second != first
    assert file.stat().st_mode & 0o777 == 0o600
    assert "kept_secret_replaced" in caplog.messages


@pytest.mark.parametrize("left", ["", "\n", "short", " " * 40])
def test_a_secret_that_is_too_short_is_replaced(
    make_settings: Make, tmp_path: Path, left: str
) -> None:
    file = tmp_path / "data" / "jwt_secret"
    file.parent.mkdir()
    file.write_text(left)
    file.chmod(0o600)
    secret = make_settings(jwt_secret=None).signing_secret()
    assert secret is not None
    assert len(secret) >= 32
    assert file.read_text() == secret


def test_a_secret_whose_writing_is_cut_short_is_not_seen(
    make_settings: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(path: Path, _: str) -> int:
        path.write_bytes(b"ha")
        raise KeyboardInterrupt

    settings = make_settings(jwt_secret=None)
    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_text", crash)
        with pytest.raises(KeyboardInterrupt):
            settings.signing_secret()
    assert not (tmp_path / "data" / "jwt_secret").exists()
    secret = settings.signing_secret()
    assert secret is not None
    assert len(secret) >= 32


def test_processes_that_start_together_get_one_secret(tmp_path: Path) -> None:
    with ProcessPoolExecutor(4, mp_context=get_context("spawn")) as pool:
        for number in range(20):
            paths = [tmp_path / str(number) / "jwt_secret"] * 4
            assert len(set(pool.map(kept_secret, paths))) == 1


def test_a_jwks_needs_no_secret(make_settings: Make, tmp_path: Path) -> None:
    settings = make_settings(jwt_secret=None, jwt_jwks_url="https://id.example.org/keys")
    assert settings.signing_secret() is None
    assert not (tmp_path / "data").exists()
    assert make_settings(jwt_secret=SecretStr("x" * 32)).signing_secret() == "x" * 32
