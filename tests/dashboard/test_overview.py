"""The first page and the job types in a browser: readable by everybody, at every width, in both themes."""

from tests.dashboard.conftest import OpenPage
from tests.dashboard.looks import WINDOWS, Theme, misfits
from tests.dashboard.served import Served

FILL = """
WITH live AS (
  INSERT INTO finmind_jobs.jobs_live (job_type, queue, next_run_at)
  SELECT 'type_' || n % 3, 'queue_' || n % 4, now() - make_interval(mins => n)
  FROM generate_series(1, 40) n),
dead AS (
  INSERT INTO finmind_jobs.jobs_dead (job_type, status, finished_at, last_error)
  SELECT 'type_' || n % 3, 'DEAD_LETTER', now() - make_interval(mins => n), repeat('error ', 40)
  FROM generate_series(1, 40) n)
INSERT INTO finmind_jobs.job_rates (step, scope, at, queue, job_type, outcome, jobs, delays, runs)
SELECT 'minute', scope, date_trunc('minute', now()) - make_interval(mins => n),
  CASE scope WHEN 'total' THEN '' ELSE 'queue_1' END, CASE scope WHEN 'pair' THEN 'type_1' ELSE '' END,
  outcome, n * 100, '{"3": 5}', '{"20": 5, "30": 1}'
FROM generate_series(0, 59) n, unnest('{SUCCESS,RETRIED,FAILED}'::text[]) outcome,
  unnest('{total,queue,pair}'::text[]) scope
"""


@WINDOWS
async def test_the_overview_and_the_job_types_are_accessible_and_fit_their_window(
    served: Served, open_page: OpenPage, width: int, theme: Theme
) -> None:
    link = served.database.link()
    await link.fetch(FILL)
    await link.close()
    page = await open_page("/dashboard", role="viewer", theme=theme, width=width)
    for path, charts in (
        ("/dashboard", 4),
        ("/dashboard/job-types", 0),
        ("/dashboard/job-types?type=type_1", 5),
    ):
        await page.goto(path)
        assert await page.locator("figure.chart svg").count() == charts
        if charts:
            await page.get_by_text("As a table").first.click()
        assert await misfits(page) == []
