"""The shop on the database of the tests: each test in a transaction, which is rolled back."""

import asyncio

import httpx
import pytest
import shop
from sqlalchemy.ext.asyncio import create_async_engine

pytest_plugins = ["service.testing.plugin"]


@pytest.fixture(scope="session")
def tables(jobs_database_url):
    """The application's own tables, beside those of the jobs."""

    async def create():
        url = jobs_database_url.replace("postgresql://", "postgresql+asyncpg://", 1)
        engine = create_async_engine(url)
        async with engine.begin() as connection:
            await connection.run_sync(shop.Base.metadata.create_all)
        await engine.dispose()

    asyncio.run(create())


@pytest.fixture(autouse=True)
async def application(tables, jobs):
    """Every session that the shop opens is part of the test's transaction."""
    shop.sessions.configure(bind=await jobs.connection(), join_transaction_mode="create_savepoint")


@pytest.fixture
async def client():
    transport = httpx.ASGITransport(app=shop.app)
    async with httpx.AsyncClient(transport=transport, base_url="http://shop") as client:
        yield client


@pytest.fixture
def mails(monkeypatch):
    """The mails that were sent: no server is asked."""
    sent = []

    async def send_mail(to, text):
        sent.append((to, text))

    monkeypatch.setattr(shop, "send_mail", send_mail)
    return sent
