"""How many rows a statement may hold, after failures and after quick statements."""

from service.jobs.batch_limit import BatchLimit


def test_a_batch_that_fails_is_halved_down_to_one_row() -> None:
    limit = BatchLimit(600, seconds=4.0)
    limit.failed(5)
    assert limit.rows == 2
    limit.failed(2)
    limit.failed(1)
    assert limit.rows == 1


def test_the_limit_grows_back_to_the_largest_while_statements_are_quick() -> None:
    limit = BatchLimit(600, seconds=4.0)
    limit.failed(600)
    limit.succeeded(1.0)
    assert limit.rows == 300
    limit.succeeded(0.9)
    limit.succeeded(0.9)
    assert limit.rows == 600
