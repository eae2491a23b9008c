"""How we compare with other queues on PostgreSQL, in the same run: `make bench-peers`."""
