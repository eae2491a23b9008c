"""Who stands in the audit log for a command."""

import getpass
import os
import socket

from service.audit import Actor


def cli_actor() -> Actor:
    """`cli:` and the user of the operating system, at this host."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container may run as a user without a name
        user = str(os.getuid())
    return Actor(f"cli:{user}", address=socket.gethostname())
