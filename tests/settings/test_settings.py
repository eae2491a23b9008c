"""Settings: what is read, and what is refused."""

from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import ValidationError

from service.errors import ConfigurationError
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


def test_all_refused_settings_are_named_at_once_without_secrets(
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
        "POLL_MIN_SECONDS must be at most POLL_MAX_SECONDS",
        "JWT_JWKS_URL must be https in production",
    }
    assert "hunter2" not in refusal.value.detail


@pytest.mark.parametrize("queues", [" , ", "", "emails:²", "emails:" + "9" * 5000])
def test_queues_that_no_worker_could_serve_are_refused_with_words(
    make_settings: Make, queues: str
) -> None:
    with pytest.raises(ValidationError, match=r"names no queue|with a limit above 0"):
        make_settings(worker_queues=queues)


def test_all_queues_may_be_served_and_one_of_them_bounded(make_settings: Make) -> None:
    assert make_settings(worker_queues="*,emails:2").worker_queues == ("*", "emails:2")
