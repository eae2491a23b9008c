"""API keys against the real database."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from service.auth.api_keys import ApiKeyStore
from service.auth.principal import Permission
from service.db.engine import Database
from service.errors import InvalidInput, NotFound, Unauthenticated

SCOPES = [Permission.JOBS_WRITE, Permission.JOBS_READ]


@pytest.fixture
async def store(database: Database) -> AsyncIterator[ApiKeyStore]:
    store = ApiKeyStore(database)
    yield store
    await store.close()


async def test_a_key_speaks_for_itself_with_its_scopes(store: ApiKeyStore) -> None:
    made = await store.create("billing", SCOPES, created_by="ann")
    principal = await store.verify(made.key)
    assert principal.subject == f"api-key:{made.record.prefix}"
    assert principal.role is None
    assert principal.kind == "api_key"
    assert principal.permissions == frozenset(SCOPES)


async def test_only_a_hash_of_the_secret_is_kept(store: ApiKeyStore, session: AsyncSession) -> None:
    made = await store.create("billing", SCOPES, created_by="ann")
    secret = made.key.partition(".")[2]
    row = (await session.execute(text("SELECT api_keys.*::text, secret_hash FROM api_keys"))).one()
    assert secret not in row[0]
    assert row[1] == hashlib.sha256(secret.encode()).digest()
    assert secret not in repr(await store.list())


async def test_a_revoked_key_is_refused_at_once_in_every_process(
    store: ApiKeyStore, database: Database
) -> None:
    made = await store.create("billing", SCOPES, created_by="ann")
    elsewhere = ApiKeyStore(database)
    try:
        await elsewhere.verify(made.key)
        first = await store.revoke(made.record.prefix, by="ann")
        with pytest.raises(Unauthenticated, match="revoked"):
            await elsewhere.verify(made.key)
        again = await store.revoke(made.record.prefix, by="ben")
        assert first.revoked_at == again.revoked_at
    finally:
        await elsewhere.close()


async def test_an_expired_key_is_refused(store: ApiKeyStore, session: AsyncSession) -> None:
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    made = await store.create("billing", SCOPES, created_by="ann", expires_at=tomorrow)
    await store.verify(made.key)
    await session.execute(text("UPDATE api_keys SET expires_at = now()"))
    await session.commit()
    with pytest.raises(Unauthenticated, match="expired"):
        await store.verify(made.key)


async def test_a_wrong_secret_and_an_unknown_prefix_are_refused_alike(store: ApiKeyStore) -> None:
    made = await store.create("billing", SCOPES, created_by="ann")
    other = await store.create("other", SCOPES, created_by="ann")
    prefix, secret = made.key.split(".")
    messages = set()
    for key in (prefix + "." + other.key.partition(".")[2], "fmj_0000000000." + secret):
        with pytest.raises(Unauthenticated) as refused:
            await store.verify(key)
        messages.add(refused.value.detail)
    assert messages == {"The API key is not known"}


@pytest.mark.parametrize(
    "key", ["fmj_", "fmj_abc", "fmj_0123456789.short", "fmj_" + "a" * 500, "fmj_0123\0456789.x", ""]
)
async def test_a_malformed_key_is_refused_without_asking_the_database(
    store: ApiKeyStore, key: str
) -> None:
    with pytest.raises(Unauthenticated, match="malformed"):
        await store.verify(key)
    assert store._link._connection is None


async def test_use_is_noted_at_most_once_a_minute(
    store: ApiKeyStore, session: AsyncSession
) -> None:
    made = await store.create("billing", SCOPES, created_by="ann")
    assert made.record.last_used_at is None
    await store.verify(made.key)
    first = (await store.list())[0].last_used_at
    assert first is not None
    await store.verify(made.key)
    assert (await store.list())[0].last_used_at == first
    await session.execute(text("UPDATE api_keys SET last_used_at = last_used_at - interval '61 s'"))
    await session.commit()
    await store.verify(made.key)
    later = (await store.list())[0].last_used_at
    assert later is not None
    assert later > first


async def test_a_connection_cut_while_idle_is_not_the_callers_trouble(
    store: ApiKeyStore, session: AsyncSession
) -> None:
    made = await store.create("billing", SCOPES, created_by="ann")
    await session.execute(
        text(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
    )
    await session.commit()
    assert (await store.verify(made.key)).kind == "api_key"


async def test_many_at_once_are_all_answered(store: ApiKeyStore) -> None:
    made = await store.create("billing", SCOPES, created_by="ann")
    principals = await asyncio.gather(*(store.verify(made.key) for _ in range(50)))
    assert {principal.subject for principal in principals} == {f"api-key:{made.record.prefix}"}


async def test_keys_are_listed_newest_first_with_those_revoked(store: ApiKeyStore) -> None:
    first = await store.create("first", SCOPES, created_by="ann")
    second = await store.create("second", SCOPES, created_by="ann")
    await store.revoke(first.record.prefix, by="ann")
    listed = await store.list()
    assert [key.prefix for key in listed] == [second.record.prefix, first.record.prefix]
    assert listed[1].revoked_at is not None


async def test_what_a_key_needs_is_checked_and_named(store: ApiKeyStore) -> None:
    yesterday = datetime.now(UTC) - timedelta(days=1)
    with pytest.raises(InvalidInput) as no_name:
        await store.create(" ", SCOPES, created_by="ann")
    with pytest.raises(InvalidInput) as no_scopes:
        await store.create("x", [], created_by="ann")
    with pytest.raises(InvalidInput) as past:
        await store.create("x", SCOPES, created_by="ann", expires_at=yesterday)
    with pytest.raises(InvalidInput) as naive:
        await store.create("x", SCOPES, created_by="ann", expires_at=datetime(2090, 1, 1))  # noqa: DTZ001
    fields = [error.value.field for error in (no_name, no_scopes, past, naive)]
    assert fields == ["name", "scopes", "expires_at", "expires_at"]


@pytest.mark.parametrize("prefix", ["0000000000", "x", "a\0b", "", "ÄÖÜäöüäöü"])
async def test_revoking_what_does_not_exist_says_so(store: ApiKeyStore, prefix: str) -> None:
    with pytest.raises(NotFound):
        await store.revoke(prefix, by="ann")
