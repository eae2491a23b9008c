"""When to look at each of many things next."""

import random

from service.jobs.flow.look_times import LookTimes


def test_the_soonest_come_first_and_stay_due_until_their_time_is_set_anew() -> None:
    looks = LookTimes()
    for at, name in enumerate("abcd"):
        looks.set(name, float(at))
    assert looks.next_at == 0.0
    assert looks.due(2.0, limit=2) == ["a", "b"]
    assert looks.due(2.0, limit=9) == ["a", "b", "c"]
    looks.set("a", 5.0)
    looks.drop("b")
    assert (looks.next_at, looks.due(9.0, limit=9)) == (2.0, ["c", "d", "a"])
    assert ("b" in looks, len(looks), sorted(looks)) == (False, 3, ["a", "c", "d"])


def test_it_agrees_with_a_search_through_all_of_them() -> None:
    rng, looks = random.Random(1), LookTimes()
    known: dict[str, float] = {}
    for _ in range(5000):
        name, at = rng.choice("abcdefgh"), float(rng.randint(0, 9))
        if rng.random() < 0.3:
            looks.drop(name)
            known.pop(name, None)
        else:
            looks.set(name, at)
            known[name] = at
        now = rng.randint(0, 9)
        assert looks.next_at == min(known.values(), default=float("inf"))
        assert sorted(looks.due(now, limit=9)) == sorted(n for n, at in known.items() if at <= now)
