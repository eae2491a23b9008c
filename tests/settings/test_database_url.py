"""DATABASE_URL: what is read out of it, and what is refused without being shown."""

import pytest

from service.settings.database_url import DatabaseUrl, Host


def hosts(url: str) -> list[str]:
    return [str(host) for host in DatabaseUrl.parse(url).hosts]


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://ada:hun#ter2@db:5432/jobs",
        "postgresql://ada:hun@ter2@db:5432/jobs",
        "postgresql://ada:hun/ter2@db:5432/jobs",
        "postgresql://ada:hun?ter2@db:5432/jobs",
        "postgresql://ada:4711/ter2@db:5432/jobs",
        "postgresql://ada:hun[ter2@db:5432/jobs",
        "postgresql://ada:hun?a=ter2@db&b=1@c",
        "postgresql://ada:hunter2@db:port/jobs",
        "postgresql://ada:hunter2@db:99999/jobs",
        "postgresql://ada:hunter2@[::1/jobs",
        "postgresql://ada:hunter2%00@db/jobs",
        "postgresql:ada:hunter2@db/jobs",
        "postgresql://ada:hunter2@db/jobs?sslmode",
        "mysql://ada:hunter2@db/jobs",
        "hunter2://ada@db/jobs",
        "host=db password=hunter2",
        "postgresql://ada:hunter2@db/jobs?sslmode=hunter2",
        "postgresql://ada:hunter2@db/jobs?connect_timeout=hunter2",
        "postgresql://ada:hunter2@db/jobs?target_session_attrs=hunter2",
        "postgresql://ada:hunter2@db/jobs?ssl_min_protocol_version=hunter2",
        "postgresql://ada:hunter2@db/jobs?sslcert=/hunter2",
        "postgresql://ada:hunter2@a,b/jobs?port=1,2,3",
        "postgresql://ada:hunter2@/jobs?port=5432",
    ],
)
def test_an_invalid_url_is_refused_without_being_shown(url: str) -> None:
    with pytest.raises(ValueError, match=r"expected|whole number|names") as refusal:
        DatabaseUrl.parse(url)
    words = str(refusal.value)
    assert not any(piece in words for piece in ("hun", "ter2", "4711", "\n"))
    assert refusal.value.__cause__ is None


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("postgresql://ada@db/jobs", ["db:5432"]),
        ("postgresql://ada@a:1,b:2/jobs", ["a:1", "b:2"]),
        ("postgresql://ada@a,b/jobs?port=7", ["a:7", "b:7"]),
        ("postgresql://ada@a,b:9/jobs?port=7,8", ["a:7", "b:9"]),
        ("postgresql+asyncpg://ada@/jobs?host=a:1&host=b:2", ["a:1", "b:2"]),
        ("postgresql://ada@/jobs?host=a,b&port=1,2", ["a:1", "b:2"]),
        ("postgresql://ada@[::1]:7/jobs", ["::1:7"]),
        ("postgresql://ada@%2Frun%2Fpostgresql/jobs", ["/run/postgresql:5432"]),
        ("postgresql://ada@/jobs?host=/run/postgresql", ["/run/postgresql:5432"]),
        ("postgresql:///jobs", []),
    ],
)
def test_every_host_is_read(url: str, expected: list[str]) -> None:
    assert hosts(url) == expected


def test_the_password_and_the_database_stay_as_they_are_encoded() -> None:
    read = DatabaseUrl.parse("postgresql+psycopg://a%40b:p%40%2F%23%3A%25@db:1/my%2Fjobs")
    assert read.dsn == "postgresql://a%40b:p%40%2F%23%3A%25@/my%2Fjobs"
    assert read.hosts == (Host("db", 1),)
    assert "p%40" not in repr(read)


def test_parameters_of_libpq_and_of_sqlalchemy_are_understood() -> None:
    read = DatabaseUrl.parse("postgresql+asyncpg://ada@db/jobs?ssl=require&connect_timeout=3")
    assert read.dsn == "postgresql://ada@/jobs?sslmode=require"
    assert read.connect_timeout_seconds == 3
    named = DatabaseUrl.parse("postgresql://ada@db/jobs?application_name=billing")
    assert (named.application_name, named.ignored) == ("billing", ())
    assert DatabaseUrl.parse("postgresql://ada@db/jobs?connect_timeout=0").ignored == ()
    system = DatabaseUrl.parse("postgresql://ada@db/jobs?sslmode=verify-full&sslrootcert=system")
    assert system.system_roots
    assert system.dsn.endswith("?sslmode=verify-full")


def test_parameters_without_a_meaning_here_are_named() -> None:
    url = "postgresql://ada@db/jobs?sslmode=require&channel_binding=require&pgbouncer=true"
    assert DatabaseUrl.parse(url).ignored == ("channel_binding", "pgbouncer")


def test_several_hosts_mean_the_primary_unless_the_url_says_otherwise() -> None:
    assert DatabaseUrl.parse("postgresql://a,b/jobs").dsn.endswith(
        "target_session_attrs=read-write"
    )
    chosen = DatabaseUrl.parse("postgresql://a,b/jobs?target_session_attrs=primary")
    assert chosen.dsn.endswith("target_session_attrs=primary")
    assert "target" not in DatabaseUrl.parse("postgresql://a/jobs").dsn
