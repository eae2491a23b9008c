"""What a request enqueues, and what becomes of it."""

import shop


async def test_an_order_is_answered_with_a_receipt(client, jobs, mails):
    answer = await client.post("/orders", json={"email": "ada@example.com"})
    order_id = answer.json()["order_id"]
    await jobs.assert_enqueued("send_receipt", {"order_id": order_id}, queue="mail")

    [ran] = await jobs.run_due(job_types=["send_receipt"])

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


async def test_the_crm_is_told_of_an_order(client, jobs):
    jobs.target.answer(
        "https://crm.example.com/", status=503, headers={"Retry-After": "60"}, times=1
    )
    answer = await client.post("/orders", json={"email": "ada@example.com"})

    [ran] = await jobs.run_due(job_types=["http.request"], raise_errors=False)
    assert (ran.outcome, ran.delay_seconds) == ("retried", 60)
    await jobs.move_clock(minutes=1)
    [ran] = await jobs.run_due(job_types=["http.request"])

    assert ran.result["status"] == 200
    assert jobs.target.requests[-1].json == {"order_id": answer.json()["order_id"]}
