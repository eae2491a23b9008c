"""Workers over HTTP: handlers in an application that needs neither the service nor its database.

from finmind_client.worker import JobContext, Worker

worker = Worker("https://jobs.example.com", token=key)

@worker.handler("send_invoice")
async def send_invoice(payload: dict, ctx: JobContext) -> dict: ...

if __name__ == "__main__":
    worker.run()
"""

from finmind_client.worker.context import JobContext
from finmind_client.worker.errors import PermanentError, RetryAfter, Snooze
from finmind_client.worker.worker import Worker

__all__ = ["JobContext", "PermanentError", "RetryAfter", "Snooze", "Worker"]
