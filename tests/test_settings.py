"""Settings: what is read, what is refused, what is made in development."""

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr, ValidationError

from service.errors import ConfigurationError
from service.kept_secret import kept_secret
from service.settings import Settings, load_settings

Make = Callable[..., Settings]

OPTIONAL = [name for name, field in Settings.model_fields.items() if field.default is None]


@pytest.mark.parametrize("blank", ["", " "])
def test_a_blank_optional_setting_counts_as_unset(
    blank: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)  # no .env
    for name in OPTIONAL:
        monkeypatch.setenv(name.upper(), blank)
    settings = Settings()
    assert {"jwt_audience", "jwt_issuer", "email_from", "twilio_auth_token"} <= set(OPTIONAL)
    assert {name: getattr(settings, name) for name in OPTIONAL} == dict.fromkeys(OPTIONAL)


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


WRONG = {
    "DATABASE_URL": "postgresql://ada:hunter2/@db/jobs",
    "SMTP_URL": "mail.example.org:25",
    "EMAIL_FROM": "nobody",
    "TWILIO_BASE_URL": "api.twilio.com",
    "TWILIO_WHATSAPP_FROM": "whatsapp:+1415",
    "JWT_SECRET": "hunter2",
    "HANDLER_MODULES": "billing.jobs,not a module",
    "WORKER_QUEUES": "*:5",
    "PORT": "http",
    "LOG_FORMAT": "xml",
}


def test_whatever_is_refused_is_named_all_of_it_at_once_and_no_secret_is_shown(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    together = {"POLL_MIN_SECONDS": "2", "POLL_MAX_SECONDS": "1", "JWT_JWKS_URL": "http://id"}
    for name, value in (WRONG | together | {"ENVIRONMENT": "production"}).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError) as refusal:
        load_settings()
    head, *lines = refusal.value.detail.splitlines()
    assert head == "Bad configuration:"
    assert {line.strip().partition(": ")[0] for line in lines} == {
        *WRONG,
        "POLL_MIN_SECONDS must not be above POLL_MAX_SECONDS",
        "JWT_JWKS_URL must be https in production",
    }
    assert "hunter2" not in refusal.value.detail


@pytest.mark.parametrize(
    ("given", "missing"),
    [
        ({"smtp_url": SecretStr("smtp://mail")}, "set EMAIL_FROM as well"),
        ({"email_from": "jobs@example.org"}, "set SMTP_URL as well"),
        (
            {"twilio_account_sid": "AC1"},
            "set TWILIO_AUTH_TOKEN and TWILIO_WHATSAPP_FROM as well",
        ),
    ],
)
def test_half_a_channel_is_refused(make_settings: Make, given: Any, missing: str) -> None:
    with pytest.raises(ValidationError, match=missing):
        make_settings(**given)


def test_all_queues_may_be_served_and_one_of_them_bounded(make_settings: Make) -> None:
    assert make_settings(worker_queues="*,emails:2").worker_queues == ("*", "emails:2")


GUESSED = {
    "JWT_SECRET": "0" * 32,
    "SMTP_URL": "smtp://ada:hunter2@mail.example.org",
    "TWILIO_BASE_URL": "http://api.example.org",
}


@pytest.mark.parametrize("name", GUESSED)
def test_what_is_guessed_or_overheard_is_refused_in_production(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    safe = {
        "ENVIRONMENT": "production",
        "DATABASE_URL": "postgresql://ada@db/jobs",
        "JWT_SECRET": "8f0a5b1c9d2e7f6a4b3c8d9e0f1a2b3c",
        "EMAIL_FROM": "jobs@example.org",
        "SMTP_URL": "smtp://127.0.0.1:25",
    }
    for setting, value in safe.items():
        monkeypatch.setenv(setting, value)
    load_settings()
    monkeypatch.setenv(name, GUESSED[name])
    with pytest.raises(ConfigurationError, match=name) as refused:
        load_settings()
    assert "hunter2" not in refused.value.detail
    monkeypatch.setenv("ENVIRONMENT", "development")
    load_settings()
