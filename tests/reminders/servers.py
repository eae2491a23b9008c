"""The other sides: a real SMTP server and a real HTTP server, on loopback, in the test's loop."""

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email import message_from_bytes, policy
from email.message import EmailMessage
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import uvicorn
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


class Connection(SMTP):
    """One client's connection, which can be cut."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.transports: list[asyncio.Transport] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transports.append(transport)  # a second one where STARTTLS succeeds
        super().connection_made(transport)

    def cut(self) -> None:
        """Hang up; a failed STARTTLS would leave its plain connection open for ever."""
        for transport in self.transports:
            transport.abort()


class Mailbox:
    """An SMTP server: keeps what it accepts, and answers RCPT or DATA as the test tells it."""

    def __init__(self, *, tls: ssl.SSLContext | None = None, **smtp_options: Any) -> None:
        self.mails: list[EmailMessage] = []
        self.senders: list[str] = []
        self.logins: list[tuple[bytes, bytes]] = []
        self.attempts = 0
        self.answer_rcpt: Callable[[int], str] = lambda _attempt: "250 OK"
        self.answer_data: Callable[[int], str] = lambda _attempt: "250 OK"
        self.login_ok = True
        self.arrived = asyncio.Event()
        self.port = 0
        self._implicit_tls = tls
        self._options = smtp_options
        self._server: asyncio.Server | None = None
        self._connections: list[Connection] = []

    async def start(self) -> "Mailbox":
        """Listen; on the same port as before, after a stop."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            self._protocol, "127.0.0.1", self.port, ssl=self._implicit_tls
        )
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def stop(self) -> None:
        """Refuse connections."""
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()
        for connection in self._connections:
            connection.cut()
        self._connections.clear()
        for _ in range(5):
            await asyncio.sleep(0)  # the turns of the loop in which sockets are closed

    def url(self, scheme: str = "smtp", login: str = "") -> str:
        return f"{scheme}://{login}{'@' if login else ''}127.0.0.1:{self.port}"

    def _protocol(self) -> SMTP:
        connection = Connection(
            self,
            hostname="mail.test",
            enable_SMTPUTF8=False,
            authenticator=self._authenticate,
            auth_require_tls=False,
            **self._options,
        )
        self._connections.append(connection)
        return connection

    def _authenticate(
        self, _server: SMTP, _session: Session, _envelope: Envelope, _mechanism: str, login: object
    ) -> AuthResult:
        assert isinstance(login, LoginPassword)
        self.logins.append((login.login, login.password))
        return AuthResult(success=self.login_ok, handled=self.login_ok)

    async def handle_RCPT(  # noqa: N802 - aiosmtpd looks for this name
        self,
        _server: SMTP,
        _session: Session,
        envelope: Envelope,
        address: str,
        _options: list[str],
    ) -> str:
        self.attempts += 1
        answer = self.answer_rcpt(self.attempts)
        if answer.startswith("250"):
            envelope.rcpt_tos.append(address)
        return answer

    async def handle_DATA(  # noqa: N802 - aiosmtpd looks for this name
        self, _server: SMTP, _session: Session, envelope: Envelope
    ) -> str:
        answer = self.answer_data(self.attempts)
        if answer.startswith("250"):
            assert isinstance(envelope.content, bytes)
            mail = message_from_bytes(envelope.content, policy=policy.default)
            assert isinstance(mail, EmailMessage)
            self.mails.append(mail)
            self.senders.append(envelope.mail_from or "")
            self.arrived.set()
        return answer


@asynccontextmanager
async def running_mailbox(**options: Any) -> AsyncIterator[Mailbox]:
    """A mailbox for the length of a block."""
    mailbox = await Mailbox(**options).start()
    try:
        yield mailbox
    finally:
        await mailbox.stop()


@dataclass(frozen=True, slots=True)
class Certificate:
    """A self-signed certificate for 127.0.0.1, and a server's TLS context with it."""

    authority: Path
    server: ssl.SSLContext


def make_certificate(directory: Path) -> Certificate:
    """Make one; a client trusts it that reads `authority`."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "mail.test")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    authority, private = directory / "mail.pem", directory / "mail.key"
    authority.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    private.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority, private)
    return Certificate(authority, context)


@dataclass(frozen=True, slots=True)
class Call:
    """One request that the stand-in for Twilio got."""

    method: str
    path: str
    headers: dict[str, str]
    form: dict[str, str]


@dataclass
class Answer:
    """What it is to answer."""

    status: int
    body: dict[str, Any] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)


class TwilioStandIn:
    """An HTTP server that answers as it was told, the last answer again and again."""

    def __init__(self, answers: list[Answer]) -> None:
        self.calls: list[Call] = []
        self.url = ""
        self._answers = answers

    async def __call__(
        self,
        scope: dict[str, Any],
        receive: Callable[[], Any],
        send: Callable[[dict[str, Any]], Any],
    ) -> None:
        body, more = b"", True
        while more:
            event = await receive()
            body, more = body + event.get("body", b""), event.get("more_body", False)
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        form = dict(parse_qsl(body.decode()))
        self.calls.append(Call(scope["method"], scope["path"], headers, form))
        answer = self._answers[min(len(self.calls), len(self._answers)) - 1]
        lines = {"content-type": "application/json"} | answer.headers
        await send(
            {
                "type": "http.response.start",
                "status": answer.status,
                "headers": [(name.encode(), value.encode()) for name, value in lines.items()],
            }
        )
        await send({"type": "http.response.body", "body": json.dumps(answer.body).encode()})


@asynccontextmanager
async def running_twilio(*answers: Answer) -> AsyncIterator[TwilioStandIn]:
    """A stand-in for Twilio for the length of a block."""
    stand_in = TwilioStandIn(list(answers))
    config = uvicorn.Config(
        stand_in, host="127.0.0.1", port=0, lifespan="off", ws="none", log_config=None
    )
    server = uvicorn.Server(config)
    socket = config.bind_socket()
    stand_in.url = f"http://127.0.0.1:{socket.getsockname()[1]}"
    # Not serve(): it would take over the test process's signal handlers. The socket listens
    # from the start, so that early connections wait for the loop instead of being refused.
    socket.listen()
    task = asyncio.create_task(server._serve([socket]), name="twilio")
    try:
        yield stand_in
    finally:
        server.should_exit = True
        await asyncio.wait_for(task, 5)
