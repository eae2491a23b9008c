"""Targets: jobs of the type `http.request`, each of which calls an address of its client's choice.

`url.py`, `addresses.py` and `guard.py` decide what may be called; `network.py` sees to it that nothing
else is, whatever a resolver answers; `client.py` sends and `answer.py` reads within bounds; `handler.py`
says what an answer means for the job.
"""
