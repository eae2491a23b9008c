"""Bearer tokens under a shared secret."""

import base64
import json
import time
from collections.abc import Callable
from typing import Any

import jwt
import pytest

from service.auth.principal import ROLE_PERMISSIONS, Role
from service.auth.tokens import MAX_CACHED_TOKENS, TokenVerifier, make_token
from service.errors import ConfigurationError, Unauthenticated
from service.settings import Settings
from tests.conftest import TEST_SECRET

SECRET = TEST_SECRET
OTHER_SECRET = "another-secret-of-more-than-32-bytes-length"
Make = Callable[..., Settings]


@pytest.fixture
def verifier(settings: Settings) -> TokenVerifier:
    return TokenVerifier(settings)


def signed(*, secret: str = SECRET, algorithm: str = "HS256", **changes: Any) -> str:
    claims: dict[str, Any] = {"sub": "ann", "role": "admin", "exp": int(time.time()) + 60}
    claims |= changes
    claims = {name: value for name, value in claims.items() if value is not None}
    return jwt.encode(claims, secret, algorithm=algorithm)


def raw(header: object, claims: object, signature: bytes = b"") -> str:
    def part(data: bytes) -> str:
        return base64.urlsafe_b64encode(data).rstrip(b"=").decode()

    return ".".join(
        (part(json.dumps(header).encode()), part(json.dumps(claims).encode()), part(signature))
    )


@pytest.mark.parametrize("role", list(Role))
async def test_a_token_gives_the_permissions_of_its_role(
    verifier: TokenVerifier, role: Role
) -> None:
    principal = await verifier.verify(make_token(SECRET, role, subject="ann", hours=1))
    assert principal.subject == "ann"
    assert principal.role is role
    assert principal.kind == "token"
    assert principal.permissions == ROLE_PERMISSIONS[role]


@pytest.mark.parametrize(
    ("token", "reason"),
    [
        pytest.param(lambda: signed(exp=int(time.time()) - 60), "expired", id="expired"),
        pytest.param(lambda: signed(exp=None), "no `exp`", id="without-exp"),
        pytest.param(lambda: signed(sub=None), "no `sub`", id="without-sub"),
        pytest.param(lambda: signed(role=None), "no `role`", id="without-role"),
        pytest.param(lambda: signed(role="root"), "`role` is not one of", id="unknown-role"),
        pytest.param(lambda: signed(role=["admin"]), "`role` is not one of", id="role-list"),
        pytest.param(lambda: signed(role={}), "`role` is not one of", id="role-object"),
        pytest.param(lambda: signed(sub=""), "`sub` is not", id="empty-sub"),
        pytest.param(lambda: signed(sub="a" * 256), "`sub` is not", id="long-sub"),
        pytest.param(lambda: signed(sub="a\nb"), "`sub` is not", id="sub-with-newline"),
        pytest.param(lambda: signed(sub="api-key:abc"), "`sub` is not", id="sub-of-an-api-key"),
        pytest.param(lambda: signed(nbf=int(time.time()) + 60), "not valid yet", id="early"),
        pytest.param(
            lambda: signed(secret=OTHER_SECRET),
            "signed with this server's JWT_SECRET",
            id="wrong-key",
        ),
        pytest.param(
            lambda: signed(algorithm="HS512", secret=SECRET * 2),
            "not signed with HS256",
            id="HS512",
        ),
        pytest.param(lambda: raw({"alg": "none"}, {"sub": "a"}), "is not valid", id="none"),
        pytest.param(lambda: raw({"alg": "nOnE"}, {"sub": "a"}), "is not valid", id="nOnE"),
        pytest.param(lambda: raw({"alg": ["HS256"]}, {}), "is not valid", id="alg-list"),
        pytest.param(lambda: raw([], {}), "is not valid", id="header-list"),
        pytest.param(lambda: raw({"alg": "HS256"}, []), "is not valid", id="claims-list"),
        pytest.param(lambda: signed() + "x", "is not valid", id="signature-changed"),
        pytest.param(lambda: signed().rpartition(".")[0] + ".", "is not valid", id="unsigned"),
        pytest.param(lambda: "a.b", "not a complete JWT", id="two-parts"),
        pytest.param(lambda: "ä.ö.ü", "is not valid", id="not-ascii"),
        pytest.param(lambda: "", "is not valid", id="empty"),
        pytest.param(lambda: "a" * 8193, "longer than 8192", id="too-long"),
        pytest.param(lambda: signed(exp="soon"), "is not valid", id="exp-text"),
        pytest.param(lambda: signed(exp=float("inf")), "is not valid", id="exp-infinite"),
        pytest.param(lambda: signed(exp=10**400), "is not valid", id="exp-huge"),
        pytest.param(lambda: signed(exp=float("nan")), "is not valid", id="exp-nan"),
        pytest.param(lambda: signed(exp=[1]), "is not valid", id="exp-list"),
    ],
)
async def test_a_token_that_does_not_hold_is_refused_with_the_reason(
    verifier: TokenVerifier, token: Callable[[], str], reason: str
) -> None:
    with pytest.raises(Unauthenticated, match=reason) as refused:
        await verifier.verify(token())
    assert refused.value.credential_given


async def test_expiry_is_forgiven_within_the_leeway(make_settings: Make) -> None:
    verifier = TokenVerifier(make_settings(jwt_leeway_seconds=30))
    assert (await verifier.verify(signed(exp=int(time.time()) - 15))).subject == "ann"


async def test_issuer_and_audience_are_required_where_set(make_settings: Make) -> None:
    verifier = TokenVerifier(make_settings(jwt_issuer="us", jwt_audience="jobs"))
    assert (await verifier.verify(signed(iss="us", aud="jobs"))).subject == "ann"
    assert (await verifier.verify(signed(iss="us", aud=["x", "jobs"]))).subject == "ann"
    for changes in ({}, {"iss": "us"}, {"iss": "us", "aud": "x"}, {"iss": "x", "aud": "jobs"}):
        with pytest.raises(Unauthenticated):
            await verifier.verify(signed(**changes))


async def test_an_audience_that_nobody_asked_for_does_no_harm(verifier: TokenVerifier) -> None:
    assert (await verifier.verify(signed(aud="somebody"))).subject == "ann"


async def test_a_remembered_token_is_refused_once_it_has_expired(
    verifier: TokenVerifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = signed(exp=int(time.time()) + 30)
    await verifier.verify(token)
    late = time.time() + 3600
    monkeypatch.setattr(time, "time", lambda: late)
    # PyJWT reads datetime.now; the token is 30 s old for it, so only our memory could refuse it:
    # what must not happen is an answer out of that memory.
    entry = verifier._verified[token]
    await verifier.verify(token)
    assert verifier._verified[token] is not entry


async def test_the_memory_of_tokens_is_bounded(verifier: TokenVerifier) -> None:
    for number in range(MAX_CACHED_TOKENS + 10):
        await verifier.verify(signed(sub=f"user-{number}"))
    assert len(verifier._verified) == MAX_CACHED_TOKENS


def test_a_short_secret_makes_no_token() -> None:
    with pytest.raises(ConfigurationError, match="32 bytes"):
        make_token("short", Role.ADMIN, subject="ann", hours=1)


def test_every_role_has_permissions_and_only_admin_manages_keys() -> None:
    assert set(ROLE_PERMISSIONS) == set(Role)
    assert all(ROLE_PERMISSIONS.values())
    managers = [role for role, granted in ROLE_PERMISSIONS.items() if "keys:manage" in granted]
    assert managers == [Role.ADMIN]
