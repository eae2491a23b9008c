"""What a request enqueues, and what becomes of it."""

import shop


async def test_an_order_is_answered_with_a_receipt(client, jobs, mails):
    answer = await client.post("/orders", json={"email": "ada@example.com"})
    order_id = answer.json()["order_id"]
    await jobs.assert_enqueued("send_receipt", {"order_id": order_id}, queue="mail")

    [ran] = await jobs.run_due()

    assert ran.result == {"sent_to": "ada@example.com"}
    assert mails == [("ada@example.com", "Thank you")]
    async with shop.sessions() as session:
        order = await session.get(shop.Order, order_id)
        assert order.receipt_sent


async def test_a_review_is_asked_for_after_a_week(client, jobs, mails):
    await client.post("/orders", json={"email": "ada@example.com"})
    await jobs.run_due()

    await jobs.move_clock(days=7)
    await jobs.run_due()

    assert mails[-1] == ("ada@example.com", "How was it?")


async def test_an_order_without_an_address_enqueues_nothing(client, jobs):
    assert (await client.post("/orders", json={})).status_code == 422
    await jobs.assert_not_enqueued()
