"""A worker in Python's standard library: claims jobs over HTTP and runs them in threads.

    FINMIND_URL=http://127.0.0.1:8000 FINMIND_KEY=fmj_… python worker.py handlers.py

The file has a function for each job type: `def send_invoice(payload, job): …`. What it returns is
the job's result; what it raises fails the attempt. `job.stopped` is set when it is to stop.
"""

import inspect
import json
import os
import random
import runpy
import signal
import socket
import sys
import threading
import time
import traceback
import urllib.request

URL = os.environ.get("FINMIND_URL", "http://127.0.0.1:8000")
CONCURRENCY = int(os.environ.get("CONCURRENCY", "10"))
GRACE_SECONDS = float(os.environ.get("GRACE_SECONDS", "25"))
WORKER = os.environ.get("WORKER_NAME", f"{socket.gethostname()}:{os.getpid()}")
OVER = {"lease_lost", "timed_out", "cancelled"}


class Job:
    """One claimed job as its handler sees it: `id`, `attempt`, `lease_token` …, and `stopped`."""

    def __init__(self, claimed, sent_at):
        self.__dict__.update(claimed)
        self.lease = {"id": claimed["id"], "lease_token": claimed["lease_token"]}
        self.lease_until = sent_at + claimed["lease_seconds"]
        self.stopped = threading.Event()
        self.why = None

    def stop(self, why):
        self.why = self.why or why
        self.stopped.set()


def log(words):
    print(f"{WORKER}: {words}", file=sys.stderr, flush=True)


def call(path, body, *, until=float("inf"), unless=lambda: False):
    """Send one call, again and again until it is answered."""
    headers = {"content-type": "application/json", "x-api-key": os.environ.get("FINMIND_KEY", "")}
    pause = 0.2
    while True:
        try:
            data = json.dumps(body | {"worker": WORKER}).encode()
            request = urllib.request.Request(f"{URL}/worker/{path}", data, headers)
            with urllib.request.urlopen(request, timeout=60) as answer:
                return json.load(answer)
        except (OSError, ValueError) as error:  # an HTTPError is an OSError with a code
            status = getattr(error, "code", 503)
            if status < 500 and status not in {408, 429}:
                raise RuntimeError(error.read().decode()) from None  # the call itself is wrong
            if unless() or time.monotonic() > until:
                raise
            log(f"{path}: {error}; again in {pause} s")
        time.sleep(pause * random.uniform(0.5, 1))
        pause = min(pause * 2, 5)


class Worker:
    def __init__(self, handlers):
        self.handlers = handlers
        self.running = {}  # by lease token
        self.stopping = threading.Event()

    def run(self):
        types = sorted(self.handlers)
        known = call("register", {"job_types": types, "concurrency": CONCURRENCY})
        threading.Thread(target=self.beat, args=[known["heartbeat_seconds"]], daemon=True).start()
        log(f"claims {', '.join(types)}")
        while not self.stopping.is_set():
            if (room := min(CONCURRENCY - len(self.running), 100)) <= 0:
                time.sleep(0.02)
                continue
            sent_at = time.monotonic()  # before the call: this worker's view of a lease ends first
            asked = {"job_types": types, "limit": room, "wait_seconds": 5}
            asked["request_id"] = f"{os.getpid()}-{sent_at}"
            try:
                answer = call("claim", asked, unless=self.stopping.is_set)
            except OSError:
                break  # it stops, and the service does not answer
            for claimed in answer["jobs"]:
                job = self.running[claimed["lease_token"]] = Job(claimed, sent_at)
                threading.Thread(target=self.attempt, args=[job], daemon=True).start()
        self.drain()

    def attempt(self, job):
        path, report = "complete", {}
        try:
            report = {"result": self.handlers[job.job_type](job.payload, job)}
        except Exception as error:
            told = {"type": type(error).__name__, "message": str(error)}
            path, report = "fail", {"error": told | {"traceback": traceback.format_exc()}}
        if path == "fail" and job.why == "shutdown":
            path, report = "release", {}
        try:
            if job.why not in OVER:  # else it is not its own any more
                call(path, {"jobs": [job.lease | report]}, until=job.lease_until)
        except Exception as error:
            log(f"job {job.id} is not reported, and will run again: {error}")
        del self.running[job.lease_token]

    def beat(self, seconds):
        while True:
            time.sleep(seconds)
            sent_at, jobs = time.monotonic(), list(self.running.values())
            try:
                asked = {"jobs": [job.lease for job in jobs]}
                answer = call("heartbeat", asked, until=sent_at + seconds)
                for job, found in zip(jobs, answer["jobs"], strict=True):
                    if found["state"] not in OVER:
                        job.lease_until = sent_at + found["lease_seconds"]
                    if found["state"] != "held":
                        job.stop(found["state"])
                if answer["drain"]:
                    self.stopping.set()
            except (OSError, RuntimeError) as error:
                log(f"heartbeat: {error}")
            for job in jobs:
                if time.monotonic() > job.lease_until:
                    job.stop("lease_lost")

    def drain(self):
        until = time.monotonic() + GRACE_SECONDS
        while self.running and time.monotonic() < until + 1:
            if time.monotonic() > until:
                for job in list(self.running.values()):
                    job.stop("shutdown")
            time.sleep(0.02)
        if left := [job.lease for job in list(self.running.values())]:
            call("release", {"jobs": left}, until=until + 5)
        call("stop", {}, until=until + 5)


if __name__ == "__main__":
    found = runpy.run_path(sys.argv[1])
    worker = Worker({name: one for name, one in found.items() if inspect.isfunction(one)})
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: worker.stopping.set())
    worker.run()
