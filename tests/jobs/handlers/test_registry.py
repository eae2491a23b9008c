"""What may be registered, and what is refused at import rather than at run time."""

from functools import partial, wraps
from typing import Any

import pytest

from service.errors import ConfigurationError
from service.jobs import JobContext, Registry
from service.jobs.core.chunk import ChunkRule


async def handle(payload: Any) -> None:
    """Stands for any handler."""


async def handle_with_context(payload: Any, ctx: JobContext) -> None:
    """Stands for a handler that wants to know more."""


def handle_plainly(payload: Any) -> None:
    """Stands for a handler that blocks."""


class Callable:
    async def __call__(self, payload: Any) -> None:
        """Stands for an object that handles."""


def test_a_function_stays_what_it_was_when_it_is_registered(handlers: Registry) -> None:
    assert handlers.handler("mail")(handle) is handle


def test_what_was_said_of_a_type_is_known(handlers: Registry) -> None:
    handlers.handler("mail", timeout=5, max_retries=1, queue="mails")(handle_with_context)
    spec = handlers.get("mail")
    assert spec is not None
    assert (spec.policy.timeout_seconds, spec.policy.max_retries, spec.policy.queue) == (
        5,
        1,
        "mails",
    )
    assert (spec.is_async, spec.takes_context) == (True, True)


@pytest.mark.parametrize(
    ("function", "is_async"),
    [(handle, True), (handle_plainly, False), (partial(handle), True), (Callable(), True)],
)
def test_coroutine_functions_are_distinguished_from_plain_ones(
    handlers: Registry, function: Any, is_async: bool
) -> None:
    handlers.handler("mail")(function)
    spec = handlers.get("mail")
    assert spec is not None
    assert spec.is_async is is_async


def test_an_unknown_type_is_none(handlers: Registry) -> None:
    assert handlers.get("mail") is None


def test_types_are_listed_in_order(handlers: Registry) -> None:
    handlers.handler("b")(handle)
    handlers.handler("a")(handle)
    assert handlers.job_types() == ["a", "b"]


def test_one_type_is_not_handled_by_two_functions(handlers: Registry) -> None:
    handlers.handler("mail")(handle)
    with pytest.raises(ConfigurationError, match=r"handled twice.*handle.*handle_plainly"):
        handlers.handler("mail")(handle_plainly)


def test_a_module_imported_again_may_register_its_function_again(
    handlers: Registry,
) -> None:
    handlers.handler("mail")(handle)
    handlers.handler("mail", max_retries=7)(handle)
    spec = handlers.get("mail")
    assert spec is not None
    assert spec.policy.max_retries == 7


@pytest.mark.parametrize("name", ["", " mail", "mail\n", "ma il", "-mail", "x" * 101, "mäil"])
def test_a_bad_name_is_refused(handlers: Registry, name: str) -> None:
    with pytest.raises(ConfigurationError, match=r"[Jj]ob type"):
        handlers.handler(name)(handle)
    with pytest.raises(ConfigurationError, match="queue"):
        handlers.handler("mail", queue=name)(handle)


@pytest.mark.parametrize(
    "limits",
    [
        {"timeout": 0},
        {"timeout": -1},
        {"timeout": float("nan")},
        {"max_retries": -1},
        {"max_retries": 1001},
    ],
)
def test_a_limit_out_of_range_is_refused(handlers: Registry, limits: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match="mail"):
        handlers.handler("mail", **limits)(handle)


@pytest.mark.parametrize("function", [lambda: None, lambda a, b, c: None, lambda *, payload: None])
def test_a_signature_that_cannot_be_called_is_refused(handlers: Registry, function: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"expected \(payload\)"):
        handlers.handler("mail")(function)


def generate(payload: Any) -> Any:
    yield payload


async def generate_asynchronously(payload: Any) -> Any:
    yield payload


class Generator:
    def __call__(self, payload: Any) -> Any:
        yield payload


def keyword_only(payload: Any, *, ctx: JobContext) -> None: ...
def keyword_only_none(payload: Any, *, ctx: JobContext | None = None) -> None: ...
def none_by_name(payload: Any, ctx: Any = None) -> None: ...
def none_by_annotation(payload: Any, job: "JobContext | None" = None) -> None: ...
def needs_a_keyword(payload: Any, *, client: Any) -> None: ...


def without_wraps(function: Any) -> Any:
    def wrapper(*args: Any) -> Any:
        return function(*args)

    return wrapper


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (generate, "generator function"),
        (generate_asynchronously, "generator function"),
        (partial(generate), "generator function"),
        (Generator(), "generator function"),
        (keyword_only, "ctx is keyword-only"),
        (needs_a_keyword, "client is keyword-only"),
        (keyword_only_none, "ctx=None would always be None"),
        (none_by_name, "ctx=None would always be None"),
        (none_by_annotation, "job=None would always be None"),
        (without_wraps(handle), r"must use functools\.wraps"),
    ],
)
def test_what_could_not_work_is_refused_when_it_is_registered(
    handlers: Registry, function: Any, words: str
) -> None:
    with pytest.raises(ConfigurationError, match=rf"Handler 'mail'.*{words}.*\(payload, ctx\)"):
        handlers.handler("mail")(function)
    assert handlers.get("mail") is None


def passing_all_on(function: Any) -> Any:
    @wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return wrapper


def making_the_context(function: Any) -> Any:
    @wraps(function)
    def wrapper(payload: Any) -> Any:
        return function(payload, "made up")

    return wrapper


def with_a_client(client: Any, payload: Any, ctx: JobContext) -> None: ...
def with_an_option(payload: Any, tries: int = 3, *, client: Any = None) -> None: ...


@pytest.mark.parametrize(
    ("function", "takes_context"),
    [
        (passing_all_on(handle), False),
        (passing_all_on(handle_with_context), True),
        (making_the_context(handle_with_context), False),
        (partial(with_a_client, "client"), True),
        (partial(needs_a_keyword, client="client"), False),
        (with_an_option, False),
        (lambda payload, *rest: None, False),
    ],
)
def test_decorators_and_partials_are_called_with_what_they_take(
    handlers: Registry, function: Any, takes_context: bool
) -> None:
    handlers.handler("mail")(function)
    spec = handlers.get("mail")
    assert spec is not None
    assert spec.takes_context is takes_context


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"timeout": "30"}, "timeout is '30', expected int or float"),
        ({"max_retries": "3"}, "max_retries is '3', expected int"),
        ({"max_retries": 2.5}, r"max_retries is 2\.5, expected int"),
        ({"backoff": 30}, "backoff is 30, expected Backoff"),
        ({"queue": 7}, "queue is 7, expected str"),
        ({"payload_model": dict}, "payload_model is <class 'dict'>, expected a pydantic BaseModel"),
        ({"payload_model": "Mail"}, "payload_model is 'Mail', expected a pydantic BaseModel"),
    ],
)
def test_an_argument_of_a_wrong_kind_is_refused_when_it_is_given(
    handlers: Registry, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigurationError, match=f"Handler 'mail': {words}"):
        handlers.handler("mail", **options)(handle)


def test_a_decorator_without_brackets_is_refused(handlers: Registry) -> None:
    with pytest.raises(ConfigurationError, match=r'@register_handler\("send_welcome"\)'):
        handlers.handler(handle)  # type: ignore[arg-type]


async def handle_chunk(jobs: Any) -> None:
    """Stands for a handler that takes jobs in groups."""


def test_a_handler_may_take_jobs_in_groups(handlers: Registry) -> None:
    handlers.handler("mail", chunk=100)(handle_chunk)
    handlers.handler("index", chunk=1, chunk_seconds=0)(handle_chunk)
    assert [spec and spec.chunk for spec in map(handlers.get, ("mail", "index"))] == [
        ChunkRule(100, 0.5),
        ChunkRule(1, 0.0),
    ]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"chunk": 0}, "chunk is 0, expected 1 to 1000 jobs"),
        ({"chunk": 1_001}, "chunk is 1001, expected 1 to 1000 jobs"),
        ({"chunk": True}, "chunk is True, expected 1 to 1000 jobs"),
        ({"chunk": 2.5}, "chunk is 2.5, expected 1 to 1000 jobs"),
        ({"chunk": 2, "chunk_seconds": -1}, "chunk_seconds is -1, expected 0 to 60 seconds"),
        ({"chunk": 2, "chunk_seconds": 61}, "chunk_seconds is 61, expected 0 to 60 seconds"),
        ({"chunk": 2, "chunk_seconds": float("nan")}, "chunk_seconds is nan, expected 0 to 60"),
        ({"chunk": 2, "chunk_seconds": "1"}, "chunk_seconds is '1', expected 0 to 60 seconds"),
        ({"chunk_seconds": 1}, "chunk_seconds is 1, and only a handler with chunk waits"),
        ({"chunk": 2, "capture_logging": True}, "capture_logging cannot tell which job"),
        ({"chunk": 2, "executor": "process"}, 'chunk and executor="process" do not go together'),
    ],
)
def test_a_bad_chunk_is_refused_with_the_reason(
    handlers: Registry, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigurationError, match=f"^Handler 'mail': {words}"):
        handlers.handler("mail", **options)(handle_chunk)


def test_a_handler_of_chunks_gets_no_context_beside_its_jobs(handlers: Registry) -> None:
    with pytest.raises(ConfigurationError, match=r"expected \(jobs\); each job is its own context"):
        handlers.handler("mail", chunk=2)(handle_with_context)
