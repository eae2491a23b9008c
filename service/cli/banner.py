"""What a long-running command reports once it serves: a banner, or in production a log line."""

import os
import shlex
import sys
from pathlib import Path
from urllib.parse import urlsplit

from service.auth.sign_in_link import SignInLink
from service.observability.logging import get_logger
from service.settings import Settings

_log = get_logger(__name__)


def announce(
    settings: Settings, port: int, *, dsn: str, api: bool, sign_in_link: SignInLink | None
) -> None:
    """Say where it listens, and, with an embedded server, where the database is."""
    host = "127.0.0.1" if settings.host in {"0.0.0.0", "::"} else settings.host  # noqa: S104
    url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    if settings.is_production:
        _log.info("listening", url=url, api=api)
        return
    lines = [("FinMind Jobs", url if api else "running jobs")]
    if api and settings.dashboard_enabled and sign_in_link is not None:
        path = f"{settings.root_path}/dashboard/sign-in"
        lines.append(("Dashboard", f"{url}{path}?link={sign_in_link.renew()}"))
    if api and settings.docs_enabled:
        lines.append(("API reference", f"{url}/docs"))
    if not api:
        lines.append(("Health", f"{url}/health/ready"))
    lines.append(("Metrics", f"{url}/metrics"))
    if settings.database_url is None:
        lines.append(("Data", str(settings.data_dir.expanduser().resolve())))
        # No password in it: the embedded server asks for none, of its own user alone.
        lines.append(("Database", dsn))
        lines.append(
            ("for SQLAlchemy", urlsplit(dsn)._replace(scheme="postgresql+asyncpg").geturl())
        )
    if api and settings.jwt_jwks_url is None:
        lines.append(
            ("Admin token", f"{_secret_folder(settings)}{_command_prefix()} token --role admin")
        )
    lines.append(("Stop", "Ctrl-C"))
    text = "\n".join(f"  {name:<14}  {value}" for name, value in lines)
    # Not on standard error: that is the log's, which machines read.
    print(f"\n{text}\n", flush=True)


def _command_prefix() -> str:
    """How this program was called, for the next command to be called alike."""
    if Path(sys.argv[0]).name != "__main__.py":
        return shlex.quote(sys.argv[0])
    python = Path(sys.executable)
    # What is under the current directory is shown as it can be typed there.
    shown = python.relative_to(Path.cwd()) if python.is_relative_to(Path.cwd()) else python
    return f"{shlex.quote(os.fspath(shown))} -m service"


def _secret_folder(settings: Settings) -> str:
    """What the next command needs to sign with this server's secret, if that is in a folder of its own."""
    if settings.jwt_secret is not None or "data_dir" not in settings.model_fields_set:
        return ""
    return f"DATA_DIR={shlex.quote(os.fspath(settings.data_dir))} "
