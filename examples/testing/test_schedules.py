"""What a schedule does in a week."""


async def test_the_owner_gets_a_digest_each_morning(jobs, mails):
    await jobs.start_schedules("digest")
    await jobs.run_for(days=7)
    assert mails == [("owner@example.com", "0 orders so far")] * 7
