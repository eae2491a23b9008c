"""When ticks are: over a year of changes of the clock, and by example."""

from datetime import UTC, datetime, timedelta
from itertools import islice, pairwise, takewhile
from zoneinfo import ZoneInfo

import pytest

from service.errors import InvalidInput
from service.schedules.preview import next_change, preview
from service.schedules.timing import ALIASES, Timing, check_jitter, jitter_of

ZONES = (
    "Europe/Berlin",  # an hour, at 01:00 UTC
    "America/New_York",  # an hour, at 02:00 of its own clock
    "America/Havana",  # at midnight: the day begins at 01:00
    "Australia/Lord_Howe",  # half an hour
    "Pacific/Chatham",  # 45 minutes off the quarter hours
    "Africa/Casablanca",  # an hour back for Ramadan, twice by the moon
)
BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
YEAR = timedelta(days=366)


def ticks(timing: Timing, begin: datetime = BEGIN, span: timedelta = YEAR) -> list[datetime]:
    return list(takewhile(lambda tick: tick < begin + span, timing.ticks_after(begin)))


@pytest.mark.parametrize("zone", ZONES)
def test_a_fixed_time_runs_once_a_day_over_a_year_whatever_the_clock_does(zone: str) -> None:
    """At its time; on a day that lacks it, at the end of the gap; where it is twice, at the first."""
    info = ZoneInfo(zone)
    for minute in range(0, 4 * 60, 30):  # no clock changes after four
        timing = Timing(f"{minute % 60} {minute // 60} * * *", zone=zone)
        found = [tick.astimezone(info) for tick in ticks(timing)]
        days = [tick.date() for tick in found]
        assert len(set(days)) == len(days) == (days[-1] - days[0]).days + 1
        for tick in found:
            wanted = tick.replace(hour=minute // 60, minute=minute % 60, fold=0)
            exists = wanted.astimezone(UTC).astimezone(info).replace(fold=0) == wanted
            if exists:
                assert (tick.hour * 60 + tick.minute, tick.fold) == (minute, 0)
            else:
                before = (tick.astimezone(UTC) - timedelta(seconds=1)).astimezone(info)
                assert before.utcoffset() != tick.utcoffset()


@pytest.mark.parametrize("zone", ZONES)
@pytest.mark.parametrize("minutes", [5, 15, 30])
def test_a_wildcard_follows_real_time_at_every_change_of_a_year(zone: str, minutes: int) -> None:
    timing, change, changes = Timing(f"*/{minutes} * * * *", zone=zone), next_change(zone, BEGIN), 0
    while change is not None and change < BEGIN + YEAR:
        around = ticks(timing, change - timedelta(hours=3), timedelta(hours=6))
        gaps = {later - earlier for earlier, later in pairwise(around)}
        assert gaps == {timedelta(minutes=minutes)}
        changes, change = changes + 1, next_change(zone, change)
    assert changes == 2


BERLIN_GAP = datetime(2027, 3, 27, 23, 0, tzinfo=UTC)  # 02:00 to 03:00 is skipped
BERLIN_FOLD = datetime(2026, 10, 24, 22, 0, tzinfo=UTC)  # 02:00 to 03:00 comes twice


@pytest.mark.parametrize(
    ("cron", "begin", "expected"),
    [
        ("30 2 * * *", BERLIN_GAP, ["03:00+02:00"]),
        ("0,30 2 * * *", BERLIN_GAP, ["03:00+02:00"]),
        ("30 1-3 * * *", BERLIN_GAP, ["01:30+01:00", "03:00+02:00", "03:30+02:00"]),
        ("*/30 2 * * *", BERLIN_GAP, []),
        ("30 * * * *", BERLIN_GAP, ["00:30+01:00", "01:30+01:00", "03:30+02:00", "04:30+02:00"]),
        ("30 2 * * *", BERLIN_FOLD, ["02:30+02:00"]),
        ("30 0-2 * * *", BERLIN_FOLD, ["00:30+02:00", "01:30+02:00", "02:30+02:00"]),
        ("*/30 2 * * *", BERLIN_FOLD, ["02:00+02:00", "02:30+02:00", "02:00+01:00", "02:30+01:00"]),
        ("30 * * * *", BERLIN_FOLD,
         ["00:30+02:00", "01:30+02:00", "02:30+02:00", "02:30+01:00", "03:30+01:00"]),
    ],
)  # fmt: skip
def test_changes_of_the_clock_by_the_examples_of_the_docs(
    cron: str, begin: datetime, expected: list[str]
) -> None:
    timing = Timing(cron, zone="Europe/Berlin")
    span = timedelta(hours=4 if begin is BERLIN_FOLD else 3, minutes=59)
    found = [timing.local(tick) for tick in ticks(timing, begin - timedelta(seconds=1), span)]
    shown = [tick.strftime("%H:%M%z") for tick in found]
    assert [f"{text[:-2]}:{text[-2:]}" for text in shown] == expected


def test_in_the_second_of_two_equal_hours_no_time_of_the_first_comes_again() -> None:
    begin = datetime(2026, 10, 25, 1, 10, tzinfo=UTC)  # 02:10 for the second time
    (tick,) = islice(Timing("50 2 * * *", zone="Europe/Berlin").ticks_after(begin), 1)
    assert tick == datetime(2026, 10, 26, 1, 50, tzinfo=UTC)


@pytest.mark.parametrize(
    ("every", "moment", "expected"),
    [
        (60, "2026-01-01T00:00:00Z", "2026-01-01T00:01:00Z"),
        (60, "2026-01-01T00:00:59.999999Z", "2026-01-01T00:01:00Z"),
        (3600, "2026-01-01T00:30:00Z", "2026-01-01T01:00:00Z"),
        (1.5, "2026-01-01T00:00:00Z", "2026-01-01T00:00:01.500000Z"),
        (86400, "2026-01-01T12:00:00Z", "2026-01-02T00:00:00Z"),
    ],
)
def test_an_interval_ticks_at_whole_multiples_of_itself(
    every: float, moment: str, expected: str
) -> None:
    found = Timing(every_seconds=every).next_after(datetime.fromisoformat(moment))
    assert found == datetime.fromisoformat(expected)


@pytest.mark.parametrize("word", ALIASES)
def test_a_word_is_its_five_fields(word: str) -> None:
    found, expected = (Timing(rule).ticks_after(BEGIN) for rule in (word.upper(), ALIASES[word]))
    assert list(islice(found, 20)) == list(islice(expected, 20))


@pytest.mark.parametrize(
    ("rule", "says"),
    [
        ({}, "cron or every_seconds is missing: give one of the two"),
        ({"cron": "@daily", "every_seconds": 5.0}, "both given"),
        ({"cron": "0 * * * * *"}, "a sixth field, for seconds, is not taken"),
        ({"cron": "* * * *"}, "it has 4 fields, expected five"),
        ({"cron": "61 * * * *"}, "'61 * * * *': bad minute; expected minute (0-59)"),
        ({"cron": "0 0 * * 8"}, "bad day-of-week"),
        ({"cron": "0 0 31 4 *"}, "bad day-of-month"),
        ({"cron": "@reboot"}, "expected one of @yearly"),
        ({"cron": "0 0 * *\n*"}, "printable ASCII"),
        ({"cron": f"{'9' * 190} * * * *"}, "bad minute"),
        ({"cron": "@daily", "zone": "Europe/Berlinn"}, "did you mean Europe/Berlin?"),
        ({"cron": "@daily", "zone": "../../etc/passwd"}, "not the name of an IANA time zone"),
        ({"every_seconds": 0.5}, "every_seconds is 0.5: expected 1 to"),
        ({"every_seconds": float("nan")}, "every_seconds is nan"),
    ],
)
def test_a_rule_that_cannot_be_followed_is_refused_in_words(
    rule: dict[str, object], says: str
) -> None:
    with pytest.raises(InvalidInput) as refused:
        Timing(**rule).check()  # type: ignore[arg-type]
    assert says in refused.value.detail


def test_jitter_is_the_same_everywhere_another_each_tick_and_below_the_gaps() -> None:
    moments = [BEGIN + timedelta(minutes=n) for n in range(200)]
    found = [jitter_of("a", one, 30) for one in moments]
    assert found == [jitter_of("a", one, 30) for one in moments]
    assert found != [jitter_of("b", one, 30) for one in moments]
    assert len(set(found)) == 200
    assert timedelta(0) <= min(found) < timedelta(seconds=3)
    assert timedelta(seconds=27) < max(found) < timedelta(seconds=30)
    assert jitter_of("a", BEGIN, 30) == timedelta(microseconds=20_053_408)  # in every process
    with pytest.raises(InvalidInput, match="ticks come 60 s apart"):
        check_jitter(Timing("* * * * *"), 60)
    check_jitter(Timing("@daily"), 3600)


def test_a_preview_shows_the_ticks_around_the_next_change_of_the_clock() -> None:
    timing = Timing("30 2 * * *", zone="Europe/Berlin")
    found = preview(timing, after=datetime(2027, 1, 1, tzinfo=UTC), count=3)
    assert [one.local.isoformat()[:16] for one in found.ticks] == [
        "2027-01-01T02:30", "2027-01-02T02:30", "2027-01-03T02:30",
    ]  # fmt: skip
    assert found.change is not None
    assert found.change.at == datetime(2027, 3, 28, 1, tzinfo=UTC)
    assert [one.local.isoformat()[5:] for one in found.change.ticks] == [
        "03-26T02:30:00+01:00", "03-27T02:30:00+01:00", "03-28T03:00:00+02:00",
        "03-29T02:30:00+02:00", "03-30T02:30:00+02:00",
    ]  # fmt: skip
    assert next_change("UTC", BEGIN) is None
    assert preview(Timing(every_seconds=1.0, zone="Europe/Berlin"), after=BEGIN, count=1).change
