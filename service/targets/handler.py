"""The `http.request` job: one attempt to have a target accept one request.

At least once: a crash before the answer is recorded means a second request, with the same
`Idempotency-Key`, by which the target can recognise it.
"""

from typing import Any, Final

from service.db.engine import Database
from service.jobs import JobContext, PermanentError, Registry, RetryAfter, registry
from service.jobs.core.job_types import JobTypePolicy, policies
from service.observability.logging import get_logger
from service.observability.metrics import target_event
from service.retry_after import parse_retry_after
from service.settings import Settings
from service.targets.answer import MIN_SECRET_CHARS, Answer, Kept
from service.targets.breaker import Breakers, Outcome, target_key, target_name
from service.targets.client import Sent, TargetClient, TargetUnreachable
from service.targets.guard import TargetRefused
from service.targets.network import LookUp
from service.targets.request import MAX_TIMEOUT_SECONDS, HttpRequest
from service.targets.signature import SIGNATURE_HEADERS, sign

JOB_TYPE: Final = "http.request"
QUEUE: Final = "targets"

TIMEOUT_MARGIN_SECONDS: Final = 30.0
"""What an attempt may take beside its request."""

_log = get_logger(__name__)


class TargetFailed(Exception):
    """The target did not accept the request; another try may be accepted."""


class TargetSender:
    """Sends the requests of jobs: what the handler needs besides its payload."""

    def __init__(
        self,
        settings: Settings,
        breakers: Breakers,
        *,
        look_up: LookUp | None = None,
        client: TargetClient | None = None,
    ) -> None:
        self.breakers: Final = breakers
        self._client = client or TargetClient(settings, look_up=look_up)
        self.connections: Final = self._client.connections
        self._timeout = settings.target_timeout_seconds
        self._connect_timeout = settings.target_connect_seconds
        self._max_retry_after = settings.target_retry_after_seconds
        self._redacted = redacted_headers(settings)
        self._secrets = settings.signing_secrets
        self._max_result_bytes = settings.max_payload_bytes

    async def send(self, payload: HttpRequest, context: JobContext) -> dict[str, Any]:
        """Send the request of one job.

        Returns:
            `{"status": 200, "headers": {…}, "body": "…", "truncated": false, "seconds": 0.02}`;
            `body_base64` in place of `body` where that is no text; `url` and `redirects` where it was
            redirected.

        Raises:
            PermanentError: the target may not be called, or refuses the request.
            RetryAfter: the target asked to wait that long.
            TargetFailed: it did not accept the request now.
            TargetUnreachable: it did not answer.
            Snooze: its breaker is open, or as many requests run as may; no attempt is used.
        """
        request = self._request(payload, context)
        destination = request.url.destination
        kept = self._kept(request)
        try:
            async with self.breakers.request(
                destination, context, timeout_seconds=request.timeout_seconds
            ) as said:
                answer = await self._send(request, said)
        except TargetRefused as refusal:
            _log.warning("target_refused", job_id=context.job_id, target=str(destination))
            target_event("refused")
            raise PermanentError(str(refusal)) from None
        except TargetUnreachable as trouble:
            target_event("unreachable")
            context.log(str(trouble), level="warning")
            raise
        if payload.succeeds(answer.status):
            target_event("succeeded")
            return kept.result(answer)
        raise self._failure(payload, context, answer, kept)

    async def _send(self, request: Sent, said: list[Outcome]) -> Answer:
        """Send, and note what it says of the target: one that redirects works, wherever that leads."""
        target = target_name(request.url.destination)
        try:
            answer = await self._client.send(request)
        except TargetUnreachable as trouble:
            same = target_name(trouble.destination) == target
            said.append(Outcome(trouble.words if same else None))
            raise
        broken = answer.status >= 500 and target_name(answer.url.destination) == target
        said.append(Outcome(f"answered {answer.status_words}" if broken else None))
        return answer

    async def close(self) -> None:
        """Close every connection."""
        await self._client.close()

    def _request(self, payload: HttpRequest, context: JobContext) -> Sent:
        body = payload.body()
        headers = dict(payload.headers)
        if body is not None and not any(name.lower() == "content-type" for name in headers):
            headers["Content-Type"] = body[1]
        headers["Idempotency-Key"] = str(context.job_id)
        if payload.sign_with is not None:
            secrets = self._secrets_of(payload.sign_with)
            headers |= sign(
                secrets, message_id=f"job_{context.job_id}", body=b"" if body is None else body[0]
            )
        return Sent(
            url=payload.parsed_url(),
            method=payload.method,
            headers=headers,
            body=None if body is None else body[0],
            timeout_seconds=payload.timeout_seconds or self._timeout,
            connect_timeout_seconds=payload.connect_timeout_seconds or self._connect_timeout,
            redirects=payload.redirects,
            bound_headers=self._redacted | SIGNATURE_HEADERS,
        )

    def _secrets_of(self, name: str) -> tuple[bytes, ...]:
        secrets = self._secrets.get(name)
        if secrets is None:
            raise PermanentError(
                f"sign_with is {name!r}, and this worker has no secret of that name: set it in TARGET_SECRETS, "
                "restart, and retry the job"
            )
        return secrets

    def _kept(self, request: Sent) -> Kept:
        secrets = (
            value for name, value in request.headers.items() if name.lower() in self._redacted
        )
        return Kept(
            redacted=self._redacted,
            secrets=tuple(value for value in secrets if len(value) >= MIN_SECRET_CHARS),
            max_bytes=self._max_result_bytes,
        )

    def _failure(
        self, payload: HttpRequest, context: JobContext, answer: Answer, kept: Kept
    ) -> Exception:
        excerpt = kept.excerpt(answer)
        words = f"{answer.url.destination} answered {answer.status_words}"
        words += f": {excerpt}" if excerpt else ""
        if answer.redirects:
            words += f" (after {answer.redirects} redirects)"
        context.log("the target did not accept the request", level="warning", **kept.result(answer))
        if not payload.retries(answer.status):
            target_event("rejected")
            return PermanentError(words)
        target_event("deferred")
        seconds = parse_retry_after(
            answer.headers.get("retry-after"), max_seconds=self._max_retry_after
        )
        return TargetFailed(words) if seconds is None else RetryAfter(seconds, words)


def bind(
    database: Database,
    settings: Settings,
    *,
    to: Registry = registry,
    look_up: LookUp | None = None,
    client: TargetClient | None = None,
) -> TargetSender:
    """Register the `http.request` handler on this database; called at the start of a service.

    Requests are sent by `client`; by one that looks hosts up by `look_up` where None.

    Where `TARGET_ENABLED` is off nothing runs, and the secrets of jobs that others enqueue stay hidden.
    """
    sender = TargetSender(settings, Breakers(database, settings), look_up=look_up, client=client)
    if not settings.target_enabled:
        policies[JOB_TYPE] = JobTypePolicy(
            payload_model=HttpRequest, queue=QUEUE, redacted_fields=redacted_headers(settings)
        )
        return sender
    to.handler(
        JOB_TYPE,
        timeout=MAX_TIMEOUT_SECONDS + TIMEOUT_MARGIN_SECONDS,
        payload_model=HttpRequest,
        queue=QUEUE,
        concurrency_key=key_of,
        max_running_per_key=settings.target_max_running,
        redacted_fields=redacted_headers(settings),
    )(sender.send)
    return sender


def key_of(payload: HttpRequest) -> str:
    """The concurrency key of such jobs: their target, `target:crm.example.com:443`."""
    return target_key(target_name(payload.parsed_url().destination))


def redacted_headers(settings: Settings) -> frozenset[str]:
    """Headers whose values are never shown, in lower case."""
    return frozenset(name.lower() for name in settings.target_redacted_headers)
