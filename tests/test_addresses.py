"""Addresses: what is read out of them, and what is refused without being shown."""

import pytest

from service.addresses import SmtpServer, sender


@pytest.mark.parametrize(
    "url",
    [
        "http://mail:25",
        "mail:25",
        "smtp://",
        "smtp://mail:99999",
        "smtp://mail:no",
        "smtp://mail/path",
        "smtp://hunter2@mail",
        "smtp://user:hunter2@mail?tls=1",
    ],
)
def test_a_wrong_mail_server_is_refused_without_being_shown(url: str) -> None:
    with pytest.raises(ValueError, match="expected smtp://") as refusal:
        SmtpServer.from_url(url)
    assert "hunter2" not in str(refusal.value)


@pytest.mark.parametrize("text", ["nobody", "A <a@b.example>, B <b@b.example>", "x@y.z\r\nBcc: q"])
def test_a_sender_is_one_address(text: str) -> None:
    with pytest.raises(ValueError, match=r"expected address@example\.org"):
        sender(text)
    assert sender("FinMind <jobs@finmind.example>").addr_spec == "jobs@finmind.example"


@pytest.mark.parametrize(
    ("url", "port"),
    [
        ("smtp://mail", 25),
        ("smtp+starttls://mail", 587),
        ("smtp+ssl://mail", 465),
        ("smtp://m:7", 7),
    ],
)
def test_ports_are_the_standard_ones_unless_named(url: str, port: int) -> None:
    assert SmtpServer.from_url(url).port == port


def test_the_password_is_not_in_the_repr_of_the_server() -> None:
    assert "hunter2" not in repr(SmtpServer.from_url("smtp://ada:hunter2@mail"))
