"""Searches for what is encrypted, which nobody can look into."""

from sqlalchemy.ext.asyncio import AsyncSession

from service.errors import InvalidInput
from service.jobs import store
from service.jobs.core.encryption import CIPHERTEXT, Sealing, covers
from service.jobs.core.filters import JobFilters
from service.jobs.core.job_types import policies
from service.jobs.read.sealed_types import sealings


async def check_searchable(session: AsyncSession, filters: JobFilters) -> None:
    """Refuse to search payloads for what is encrypted in them: nothing would be found, whatever there is.

    Raises:
        InvalidInput: the field and the job type are named.
    """
    if not filters.payload:
        return
    types = await _sealed_types(session)
    if filters.job_type is not None:
        types = {name: one for name, one in types.items() if name == filters.job_type}
    for field in filters.payload:
        path = ".".join(field.path)
        if field.path[0] == CIPHERTEXT:
            raise InvalidInput(f"payload.{path} is encrypted: a search cannot look inside")
        for job_type, sealing in sorted(types.items()):
            if covers(sealing, path):
                raise InvalidInput(
                    f"payload.{path} is encrypted in jobs of type {job_type!r}: a search cannot look inside. Search"
                    " by another member, by unique_key, or among the jobs of another type.",
                )


async def _sealed_types(session: AsyncSession) -> dict[str, Sealing]:
    """What is encrypted of payloads by type: as handlers here say, else as workers have published."""
    own = {name: policy.encrypt for name, policy in policies.items() if policy.encrypt is not None}
    return sealings(await store.served_types.encrypted(session)) | own
