"""Loading handlers: a user adds a module and names it; no fork is needed."""

import importlib
from importlib.metadata import entry_points
from pathlib import Path
from typing import Final

from service import signals
from service.errors import ConfigurationError
from service.jobs.core.encryption import check_configured
from service.jobs.core.job import DEFAULT_QUEUE
from service.jobs.core.payload_keys import PayloadKeys, use_keys
from service.jobs.handlers.registry import registry
from service.observability.labels import known_queue
from service.observability.logging import get_logger
from service.observability.metrics import expect_job_types
from service.settings import Environment, Settings

ENTRY_POINT_GROUP: Final = "finmind_jobs.handlers"

_log = get_logger(__name__)


def load_handlers(settings: Settings) -> list[str]:
    """Import every module that registers handlers; the job types that are then known.

    Raises:
        ConfigurationError: a module cannot be imported, or exits; which, and why. A handler encrypts
            payloads, and there is no key for it; or no process could import it, as it asks for.
    """
    use_keys_of(settings)
    modules = [(name, "HANDLER_MODULES") for name in settings.handler_modules]
    modules += [
        (point.module, f"entry point {point.name!r} of {ENTRY_POINT_GROUP}")
        for point in entry_points(group=ENTRY_POINT_GROUP)
    ]
    if settings.demo_handlers or settings.environment is Environment.DEVELOPMENT:
        modules.append(("service.demo", "DEMO_HANDLERS"))
    for name, source in modules:
        _load(name, source)
    job_types = registry.job_types()
    check_configured(registry.encrypted_types())
    registry.check_importable()
    expect_job_types(job_types)
    served = {entry.partition(":")[0] for entry in settings.worker_queues} - {"*"}
    known_queue.reserve(registry.queues() | served | {DEFAULT_QUEUE})
    _log.info("handlers_loaded", modules=[name for name, _ in modules], job_types=job_types)
    return job_types


def use_keys_of(settings: Settings) -> None:
    """Have this process encrypt and decrypt payloads by the keys of its settings.

    Raises:
        ConfigurationError: one is not 32 bytes in base64.
    """
    if settings.payload_keys is not None:
        use_keys(PayloadKeys.parse(settings.payload_keys.get_secret_value()))


def _load(name: str, source: str) -> None:
    with signals.kept() as changed:
        try:
            importlib.import_module(name)
        except ConfigurationError as error:
            raise ConfigurationError(f"{source}: module {name!r}: {error.detail}") from error
        except BaseException as error:  # sys.exit as well
            why = f"{type(error).__name__}: {error}"
            if isinstance(error, ModuleNotFoundError) and name.startswith(error.name or name):
                why += (
                    f". It is looked for in the working directory, {Path.cwd()}, and on PYTHONPATH"
                )
            raise ConfigurationError(
                f"{source}: module {name!r} cannot be imported: {why}"
            ) from error
    if changed:
        _log.warning(
            "signal_handlers_undone",
            module=name,
            signals=changed,
            hint="the service stops by these signals, and cancels handlers then",
        )
