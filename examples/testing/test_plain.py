"""Retries and errors of a handler, without a web framework."""

import pytest
import shop

from service.jobs import PermanentError


@pytest.fixture
async def order():
    async with shop.sessions.begin() as session:
        order = shop.Order(email="ada@example.com")
        session.add(order)
    return order


async def test_a_receipt_is_retried_while_the_mail_server_is_away(order, jobs, mails, monkeypatch):
    async def refuse(to, text):
        raise ConnectionError("the mail server is away")

    with monkeypatch.context() as away:
        away.setattr(shop, "send_mail", refuse)
        await jobs.enqueue("send_receipt", {"order_id": order.id})
        [ran] = await jobs.run_due(raise_errors=False)
    assert (ran.outcome, ran.delay_seconds) == ("retried", 30)

    assert await jobs.run_due() == []  # not yet due
    await jobs.move_clock(seconds=30)
    [ran] = await jobs.run_due()
    assert (ran.outcome, ran.attempt) == ("succeeded", 2)
    assert len(mails) == 1


async def test_a_receipt_without_an_order_fails_at_once(jobs):
    job = await jobs.enqueue("send_receipt", {"order_id": 0})
    with pytest.raises(PermanentError, match="there is no order 0"):
        await jobs.run_due()
    assert (await jobs.get(job.id)).status == "FAILED"
