"""What the navigation shows, and in which order."""

from dataclasses import dataclass
from typing import Final

from service.auth.principal import Permission


@dataclass(frozen=True, slots=True)
class Item:
    """One page that the navigation leads to."""

    label: str
    path: str
    permission: Permission = Permission.ADMIN_READ
    key: str | None = None
    """After `g` it leads there by keyboard."""


ITEMS: Final = (
    Item("Overview", "/dashboard", key="o"),
    Item("Jobs", "/dashboard/jobs", key="j"),
    Item("Dead letters", "/dashboard/dead-letters", key="d"),
    Item("Operations", "/dashboard/operations", key="b"),
    Item("Batches", "/dashboard/batches", key="c"),
    Item("Schedules", "/dashboard/schedules", key="s"),
    Item("Queues", "/dashboard/queues", key="q"),
    Item("Job types", "/dashboard/job-types", key="t"),
    Item("Workers", "/dashboard/workers", key="w"),
    Item("Targets", "/dashboard/targets", key="h"),
    Item("Reminders", "/dashboard/reminders", key="r"),
    Item("Enqueue", "/dashboard/enqueue", Permission.ADMIN_OPERATE, key="n"),
    Item("Audit log", "/dashboard/audit", key="a"),
    Item("API keys", "/dashboard/api-keys", Permission.KEYS_MANAGE, key="y"),
)
