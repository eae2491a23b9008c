"""LISTEN and NOTIFY: workers are woken after a commit. They also poll, so a lost one delays a job only."""
