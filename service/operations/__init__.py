"""Operations: one action on many jobs, previewed, durable, paced, and stopped when it does harm.

`starting.py` checks and starts one; `runner.py` carries it out, as a job of the service, in chunks of
one transaction each.
"""
