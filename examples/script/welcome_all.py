"""A plain script: enqueue over REST, and wait for what came of it."""

import os
import sys

from finmind_client import Client, InvalidInput, NewJob

with Client(os.environ["FINMIND_URL"], token=os.environ["FINMIND_KEY"]) as jobs:
    try:
        made = jobs.enqueue_batch(
            [NewJob("send_welcome", {"email": email}) for email in sys.argv[1:]]
        )
    except InvalidInput as error:
        sys.exit(error.detail)
    for job_id in made.ids:
        job = jobs.wait(job_id, timeout_seconds=60)
        print(f"job {job.id}: {job.status} {job.result}")
