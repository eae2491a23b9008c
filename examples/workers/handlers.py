"""Handlers for `worker.py`: a function for each job type."""

import time


def example_hello(payload, job):
    return {"greeting": f"Hello, {payload.get('name', 'nobody')}", "attempt": job.attempt}


def example_slow(payload, job):
    until = time.monotonic() + payload.get("seconds", 5)
    while time.monotonic() < until:
        if job.stopped.wait(0.05):
            raise RuntimeError(f"stopped: {job.why}")
    return "done"
