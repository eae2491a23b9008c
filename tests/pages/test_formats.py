"""How pages write numbers, times and durations."""

from datetime import UTC, datetime, timedelta

import pytest
from starlette.responses import Response

from service.dashboard import formats, rendering


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (None, "–"),
        (float("nan"), "–"),
        (-3.0, "0 ms"),
        (0.0031, "3 ms"),
        (1.25, "1.25 s"),
        (59.9, "59.9 s"),
        (125, "2 min 5 s"),
        (3600, "1 h"),
        (11_040, "3 h 4 min"),
        (5 * 86_400 + 6 * 3600, "5 d 6 h"),
        (float("inf"), "for ever"),
    ],
)
def test_a_duration_is_short_and_never_negative(seconds: float | None, words: str) -> None:
    assert formats.duration(seconds) == words


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.2, "just now"), (9.48, "9 s ago"), (-90.2, "in 1 min 30 s")]
)
def test_how_long_ago_is_told_in_whole_seconds(
    monkeypatch: pytest.MonkeyPatch, seconds: float, words: str
) -> None:
    moment = datetime(2026, 3, 1, 9, tzinfo=UTC)
    monkeypatch.setattr(formats, "now", lambda: moment + timedelta(seconds=seconds))
    text = formats.ago(moment)
    assert f">{words}</time>" in text
    assert 'datetime="2026-03-01T09:00:00Z" title="2026-03-01 09:00:00 UTC"' in text


def test_a_number_is_exact_and_says_where_it_stopped_counting() -> None:
    assert formats.number(1_234_567) == "1\u202f234\u202f567"
    assert formats.capped(10_000, exact=False) == "10\u202f000+"


@pytest.mark.parametrize(
    ("share", "words"),
    [(None, "–"), (0.0, "0 %"), (0.004, "0.4 %"), (0.123, "12 %"), (1.0, "100 %")],
)
def test_a_share_is_told_in_percent(share: float | None, words: str) -> None:
    assert formats.percent(share) == words


def test_the_longest_message_fits_into_a_cookie() -> None:
    answer = rendering.flash(Response(), "\N{PILE OF POO}" * 10_000)
    assert len(answer.headers["set-cookie"]) < 4096
