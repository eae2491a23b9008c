"""Following jobs: clients that wait for a job's end, or read its events, at no query each."""
