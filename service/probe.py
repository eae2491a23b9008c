"""`python -m service.probe`: exits 0 while a service of this container answers `/health/live`.

For the image's HEALTHCHECK, which does not know which command its container runs: it requests the port
of `serve`, then that of a `worker`. It imports nothing of the service, so that a probe is cheap.
"""

import os
import sys
from http.client import HTTPConnection, HTTPException
from typing import Final

TIMEOUT_SECONDS: Final = 1.0
EVERY_ADDRESS: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104
"""The address to request when the service listens on all addresses."""


def main() -> int:
    """0 where one of the two ports answers that the process is alive, else 1."""
    host = os.environ.get("HOST", "127.0.0.1")
    ports = (os.environ.get("PORT", "8000"), os.environ.get("WORKER_PORT", "8001"))
    return 0 if any(_lives(EVERY_ADDRESS.get(host, host), int(port)) for port in ports) else 1


def _lives(host: str, port: int) -> bool:
    connection = HTTPConnection(host, port, timeout=TIMEOUT_SECONDS)
    try:
        connection.request("GET", "/health/live")
        return connection.getresponse().status == 200
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()


if __name__ == "__main__":
    sys.exit(main())
