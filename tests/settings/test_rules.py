"""What must hold between settings, and what production refuses."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr, ValidationError

from service.errors import ConfigurationError
from service.settings import Settings, load_settings

Make = Callable[..., Settings]


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
