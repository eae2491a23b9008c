"""Counts the refused credentials of each source: it limits floods and locks nobody out.

No secret here can be guessed: tokens are signed with 256 bits or more, and API keys are as long. A
flood of wrong credentials can only make others wait for the database, and hide a real attack. So a
source that fails too often gets 429, is counted, and has its API keys looked up one at a time. A valid
credential is never refused because of earlier failures from its address.
"""

import ipaddress
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

MAX_SOURCES: Final = 10_000
"""Sources remembered; of more, those that have been silent longest are forgotten."""
MINUTE: Final = 60.0


class FailedSignIns:
    """A leaky bucket for each source: so many failures fit in, and leak out within a minute."""

    def __init__(self, per_minute: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._most = per_minute
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def note(self, source: str) -> None:
        """One more credential of this source was refused."""
        if not self._most:
            return
        name = _network(source)
        # At most one over: however long a flood lasts, it is forgiven within the same minute.
        self._buckets[name] = (min(self._level(name) + 1, self._most + 1), self._clock())
        self._buckets.move_to_end(name)
        if len(self._buckets) > MAX_SOURCES:
            self._buckets.popitem(last=False)

    def wait_seconds(self, source: str) -> float:
        """How many seconds this source should wait; 0 while it is within the limit."""
        if not self._most:
            return 0.0
        over = self._level(_network(source)) - self._most
        return max(0.0, over * MINUTE / self._most)

    def _level(self, name: str) -> float:
        level, at = self._buckets.get(name, (0.0, 0.0))
        return max(0.0, level - (self._clock() - at) * self._most / MINUTE)


def _network(source: str) -> str:
    """The address; for IPv6 the /64, because a client usually has all of one."""
    try:
        address = ipaddress.ip_address(source.partition("%")[0])
    except ValueError:
        return source[:100]
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.ip_network((address, 64), strict=False))
