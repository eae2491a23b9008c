"""Schedules: named rules that enqueue a job at each tick, once over all processes, without a leader.

`timing.py` knows when ticks are, `deciding.py` and `overlap.py` what becomes of them, none of which does
I/O. `firing.py` acts on what is due in one transaction, `ticker.py` calls it in time, `endings.py` notes how
runs ended. `managing.py` and `by_hand.py` are what people do, `declared.py` and `declaring.py` what code does.
"""

from service.jobs.core.schedule_tick import ScheduleTick
from service.schedules.declared import schedule

__all__ = ["ScheduleTick", "schedule"]
