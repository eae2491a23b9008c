"""Settings of reminders: how often they are scanned, and the channels that send them."""

from pydantic import BaseModel, Field, SecretStr, field_validator

from service.addresses import SmtpServer, is_e164, sender, web_base


class RemindersSettings(BaseModel):
    """Scan interval, e-mail and WhatsApp."""

    reminder_scan_seconds: float = Field(
        60.0, gt=0, le=3600, description="How often due reminders are enqueued as jobs."
    )
    smtp_url: SecretStr | None = Field(
        None,
        description="`smtp://`, `smtp+starttls://` or `smtp+ssl://` with `user:password@host:port`. Set it together with `EMAIL_FROM`; without both, e-mail reminders fail with an error that says so.",
    )
    smtp_timeout_seconds: float = Field(
        20.0, gt=0, le=300, description="Timeout for one SMTP delivery."
    )
    email_from: str | None = Field(
        None,
        description="Sender of e-mail reminders: `jobs@example.org` or `FinMind <jobs@example.org>`. Set it together with `SMTP_URL`.",
    )
    twilio_base_url: str = Field(
        "https://api.twilio.com", description="URL of Twilio's API, or of a stand-in for tests."
    )
    twilio_account_sid: str | None = Field(
        None, description="Twilio account for WhatsApp reminders."
    )
    twilio_auth_token: SecretStr | None = Field(
        None, description="Auth token of the Twilio account."
    )
    twilio_whatsapp_from: str | None = Field(
        None, description="WhatsApp sender in E.164 format: `+14155238886`."
    )
    twilio_timeout_seconds: float = Field(
        15.0, gt=0, le=300, description="Timeout for one call to Twilio."
    )

    @field_validator("smtp_url", mode="after")
    @classmethod
    def _mail_server(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            SmtpServer.from_url(value.get_secret_value())
        return value

    @field_validator("email_from", mode="after")
    @classmethod
    def _sender_address(cls, value: str | None) -> str | None:
        if value is not None:
            sender(value)
        return value

    @field_validator("twilio_base_url", mode="after")
    @classmethod
    def _twilio_address(cls, value: str) -> str:
        return web_base(value)

    @field_validator("twilio_whatsapp_from", mode="after")
    @classmethod
    def _whatsapp_number(cls, value: str | None) -> str | None:
        if value is not None and not is_e164(value):
            raise ValueError(f"{value!r}: expected E.164, such as +14155238886")
        return value
