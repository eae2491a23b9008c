"""Streams of a job's events, read by the client."""

from collections.abc import Iterator

import httpx
import pytest

from finmind_client import Client, FinMindError, JobEvent, NotAllowed, NotFound, NotReached, Retry
from finmind_client.job_events import EventReader

STREAM = (
    b"retry: 0\n\n: ping\n\nid: 1.0-a\nevent: status\ndata: {\"status\": \"RUNNING\"}\n\n"
    b"id: 1.1-a\r\nevent: log\r\ndata: {\"message\":\r\ndata: \"a\xe2\x80\xa8b\"}\r\n\r\n"
    b"event: later\ndata: {}\n\nid: 1.1-b-end\nevent: end\ndata: {\"status\": \"SUCCESS\"}\n\n"
)  # fmt: skip
EVENTS = [
    JobEvent("status", {"status": "RUNNING"}, "1.0-a"),
    JobEvent("log", {"message": "a\u2028b"}, "1.1-a"),
    JobEvent("end", {"status": "SUCCESS"}, "1.1-b-end"),
]


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_a_stream_is_read_however_it_is_cut(size: int) -> None:
    reader = EventReader()
    pieces = [STREAM[start : start + size] for start in range(0, len(STREAM), size)]
    assert [event for piece in pieces for event in reader.feed(piece)] == EVENTS
    assert reader.ended
    assert reader.retry_seconds == 0


class _Cut(httpx.SyncByteStream):
    """The beginning of a stream, and then nothing more."""

    def __init__(self, content: bytes, *, broken: bool) -> None:
        self._content, self._broken = content, broken

    def __iter__(self) -> Iterator[bytes]:
        yield self._content
        if self._broken:
            raise httpx.ReadError("cut off")


@pytest.mark.parametrize("broken", [True, False], ids=["broken", "over"])
def test_a_stream_that_is_cut_off_goes_on_after_the_last_event(broken: bool) -> None:
    asked: list[str | None] = []
    ends = [STREAM.index(b"event: log"), len(STREAM)]

    def handle(request: httpx.Request) -> httpx.Response:
        asked.append(request.headers.get("last-event-id"))
        match len(asked):
            case 1:
                return httpx.Response(503, headers={"retry-after": "0"}, json={})
            case 2:
                return httpx.Response(200, stream=_Cut(STREAM[: ends[0]], broken=broken))
            case _:
                return httpx.Response(200, stream=_Cut(STREAM[ends[0] :], broken=broken))

    retry = Retry(attempts=2, base_seconds=0.001)
    with Client("http://jobs", transport=httpx.MockTransport(handle), retry=retry) as client:
        assert [event.kind for event in client.events(1)] == ["status", "log", "end"]
    assert asked == [None, None, "1.0-a"]


def test_a_stream_that_cannot_be_had_says_why() -> None:
    answers: list[httpx.Response | httpx.TransportError] = []

    def handle(_: httpx.Request) -> httpx.Response:
        if isinstance(answers[0], httpx.TransportError):
            raise answers[0]
        return answers[0]

    retry = Retry(attempts=2, base_seconds=0.001)
    with Client("http://jobs", transport=httpx.MockTransport(handle), retry=retry) as client:
        refusals: list[tuple[httpx.Response | httpx.TransportError, type[FinMindError]]] = [
            (httpx.ConnectError("refused"), NotReached),
            (httpx.Response(404, json={}), NotFound),
            (httpx.Response(403, json={}), NotAllowed),
            (httpx.Response(200, content=b"event: end\ndata: <html>\n\n"), NotReached),
        ]
        for answer, error in refusals:
            answers[:] = [answer]
            with pytest.raises(error):
                list(client.events(1))
        answers[:] = [httpx.Response(204)]
        assert list(client.events(1, last_event_id="1.1-b-end")) == []
