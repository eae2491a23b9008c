"""Which function handles which job type."""

from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from re import fullmatch
from typing import Any, Literal, TypeAlias, TypeVar

from pydantic import BaseModel

from service.errors import ConfigurationError, InvalidInput
from service.jobs.core.backoff import Backoff
from service.jobs.core.chunk import ChunkRule, chunk_rule
from service.jobs.core.concurrency_key import check_template, fields_of
from service.jobs.core.encryption import Encrypt, Sealing, check_unread, sealing_of
from service.jobs.core.job import DEFAULT_QUEUE, NAME_PATTERN, NAME_RULE
from service.jobs.core.job_types import ConcurrencyKey, JobTypePolicy, policies
from service.jobs.handlers.importable import check_importable, refuse_unimportable
from service.jobs.handlers.signature import is_async, origin, takes_context

Handler = Callable[..., Awaitable[Any]] | Callable[..., Any]
HandlerT = TypeVar("HandlerT", bound=Callable[..., Any])
Executor: TypeAlias = Literal["process"]


@dataclass(frozen=True, slots=True)
class HandlerSpec:
    """The function that handles one job type, how it is called, and the type's policy."""

    job_type: str
    function: Handler
    is_async: bool
    takes_context: bool
    policy: JobTypePolicy
    chunk: ChunkRule | None = None
    """How many jobs one call takes; None: one, and its payload is the argument."""
    in_process: bool = False
    """Whether it runs in a process of its own."""


class Registry:
    """Handlers by job type.

    Args:
        policies: where the policies of their types are kept as well: the process's own for its
            own registry, else a table that only this registry knows.
    """

    def __init__(self, policies: dict[str, JobTypePolicy] | None = None) -> None:
        self._policies = {} if policies is None else policies
        self._specs: dict[str, HandlerSpec] = {}

    def handler(
        self,
        job_type: str,
        *,
        timeout: float | None = None,
        max_retries: int | None = None,
        backoff: Backoff | None = None,
        payload_model: type[BaseModel] | None = None,
        queue: str | None = None,
        internal: bool = False,
        concurrency_key: ConcurrencyKey | None = None,
        max_running_per_key: int | None = None,
        encrypt: Encrypt | None = None,
        capture_logging: bool | None = None,
        redacted_fields: Collection[str] = (),
        chunk: int | None = None,
        chunk_seconds: float | None = None,
        executor: Executor | None = None,
    ) -> Callable[[HandlerT], HandlerT]:
        """Register the decorated function for `job_type`.

        The function takes the payload, and the `JobContext` where it has a second parameter.
        It may be a coroutine function, or a plain one, which then runs in a thread; what that
        returns is awaited where it can be.

        Args:
            job_type: the name that jobs are enqueued under.
            timeout: seconds that one attempt may take.
            max_retries: retries after the first attempt.
            backoff: delays between attempts.
            payload_model: the pydantic model that the payload is handed over as; a payload that
                it refuses makes the job FAILED.
            queue: the queue of jobs of this type that name none.
            internal: whether clients of the API may not enqueue such jobs.
            concurrency_key: the key of jobs that name none: a function of the payload, or a template
                of its fields, `"customer:{payload.customer_id}"`.
            max_running_per_key: how many jobs with one key may run at once, over all processes.
            encrypt: what is kept encrypted of payloads: True, all of it; else members, `["card"]`. The
                handler gets them plain; people see that they are there.
            capture_logging: whether what the handler logs by `logging` is kept with its job, as if by
                `ctx.log`; `JOB_LOG_CAPTURE` where None.
            redacted_fields: members of payloads and results, at any depth and in any case, whose values
                the API, the dashboard and the audit log never show.
            chunk: up to how many jobs one call takes, 1 to 1,000: the function gets a list of `ChunkJob`, and
                settles each by itself.
            chunk_seconds: how long the first job of a chunk waits for others, 0 to 60; 0.5 where None.
            executor: "process": each attempt runs in one of `HANDLER_PROCESSES` processes, for handlers that
                compute; the function is one that a process can import.

        Raises:
            ConfigurationError: the name, a limit or the signature breaks a rule, or the type is
                taken by another function.
        """
        if not isinstance(job_type, str):
            # A decorator without brackets would take the function, and register nothing.
            raise ConfigurationError(
                f"The job type is {job_type!r}, expected its name: "
                '@register_handler("send_welcome") above the function'
            )

        rule = chunk_rule(job_type, chunk, chunk_seconds)

        def register(function: HandlerT) -> HandlerT:
            self.add(
                HandlerSpec(
                    job_type=job_type,
                    function=function,
                    is_async=is_async(function),
                    takes_context=takes_context(job_type, function),
                    policy=JobTypePolicy(
                        timeout_seconds=timeout,
                        max_retries=max_retries,
                        backoff=backoff,
                        payload_model=payload_model,
                        queue=queue,
                        internal=internal,
                        concurrency_key=concurrency_key,
                        max_running_per_key=max_running_per_key,
                        encrypt=_sealing(job_type, encrypt),
                        capture_logging=capture_logging,
                        redacted_fields=frozenset(name.lower() for name in redacted_fields),
                    ),
                    chunk=rule,
                    in_process=_runs_in_process(job_type, function, executor, payload_model),
                )
            )
            return function

        return register

    def add(self, spec: HandlerSpec) -> None:
        """Take `spec` in; see `handler` for what is refused."""
        name = spec.job_type
        if not fullmatch(NAME_PATTERN, name):
            raise ConfigurationError(f"Job type {name!r}: expected {NAME_RULE}")
        spec.policy.check(name)
        if isinstance(spec.policy.concurrency_key, str):
            check_template(name, spec.policy.concurrency_key)
        _check_key_rule(name, spec.policy)
        _check_chunk(spec)
        standing = self._specs.get(name)
        if standing is not None and origin(standing.function) != origin(spec.function):
            raise ConfigurationError(
                f"Job type {name!r} is handled twice: by {origin(standing.function)} "
                f"and by {origin(spec.function)}"
            )
        self._specs[name] = spec
        self._policies[name] = spec.policy

    def get(self, job_type: str) -> HandlerSpec | None:
        """What is known of `job_type`; None where this process has no handler for it."""
        return self._specs.get(job_type)

    def job_types(self) -> list[str]:
        """Every job type with a handler here, sorted."""
        return sorted(self._specs)

    def check_importable(self) -> None:
        """Refuse handlers for processes of their own that these would not find.

        Raises:
            ConfigurationError: which, and why.
        """
        for name, spec in self._specs.items():
            if spec.in_process:
                check_importable(name, spec.function)
                if spec.policy.payload_model is not None:
                    check_importable(name, spec.policy.payload_model)

    def limits_per_key(self) -> dict[str, int]:
        """The job types that limit how many jobs with one concurrency key run at once, and to how many."""
        return {
            name: spec.policy.max_running_per_key
            for name, spec in self._specs.items()
            if spec.policy.max_running_per_key is not None
        }

    def chunks(self) -> dict[str, int]:
        """The job types whose handlers take several jobs with one call, and up to how many."""
        return {name: spec.chunk.jobs for name, spec in self._specs.items() if spec.chunk}

    def encrypted_types(self) -> dict[str, Sealing]:
        """The job types that have payloads encrypted, and what of them."""
        return {
            name: spec.policy.encrypt
            for name, spec in self._specs.items()
            if spec.policy.encrypt is not None
        }

    def queues(self) -> set[str]:
        """The queues that handlers name for their jobs."""
        return {spec.policy.queue for spec in self._specs.values() if spec.policy.queue is not None}

    def computing_queues(self) -> set[str]:
        """The queues that only handlers in processes of their own name; the default queue is none of them."""
        by_others = {s.policy.queue for s in self._specs.values() if not s.in_process}
        return self.queues() - by_others - {DEFAULT_QUEUE}


registry = Registry(policies)
"""The process's own registry: `register_handler` fills it, and workers use it by default."""

register_handler = registry.handler


def _runs_in_process(
    job_type: str, function: Handler, executor: str | None, model: type[BaseModel] | None
) -> bool:
    if executor is None:
        return False
    if executor != "process":
        raise ConfigurationError(
            f'Handler {job_type!r}: executor is {executor!r}, expected "process", or None: the event loop, or a '
            "thread for a plain function"
        )
    for what in (function, *([model] if model is not None else [])):
        refuse_unimportable(job_type, what)
    return True


def _sealing(job_type: str, encrypt: Encrypt | None) -> Sealing | None:
    try:
        return sealing_of(encrypt)
    except InvalidInput as error:
        raise ConfigurationError(f"Handler {job_type!r}: {error.detail}") from None


def _check_key_rule(job_type: str, policy: JobTypePolicy) -> None:
    if policy.encrypt is None or policy.concurrency_key is None:
        return
    if not isinstance(policy.concurrency_key, str):
        raise ConfigurationError(
            f"Handler {job_type!r}: concurrency_key is a function, which reads the whole payload, and part of that"
            ' is encrypted: make the key by a template of other members, "customer:{payload.customer_id}"'
        )
    try:
        check_unread(policy.encrypt, fields_of(policy.concurrency_key), by="concurrency_key")
    except InvalidInput as error:
        raise ConfigurationError(f"Handler {job_type!r}: {error.detail}") from None


def _check_chunk(spec: HandlerSpec) -> None:
    if spec.chunk is None:
        return
    if spec.in_process:
        raise ConfigurationError(
            f'Handler {spec.job_type!r}: chunk and executor="process" do not go together: take one of them'
        )
    if spec.takes_context:
        raise ConfigurationError(
            f"Handler {spec.job_type!r} ({origin(spec.function)}): 2 arguments are required by position, and a"
            " handler with chunk gets one, the list of its jobs: expected (jobs); each job is its own context"
        )
    if spec.policy.capture_logging:
        raise ConfigurationError(
            f"Handler {spec.job_type!r}: capture_logging cannot tell which job of a chunk a record is about:"
            " call job.log in the handler"
        )
