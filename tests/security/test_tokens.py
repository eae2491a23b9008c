"""Forged, confused and stolen-looking tokens, beyond those of tests/auth."""

import base64
import hmac
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from pydantic import SecretStr

from service.auth.tokens import TokenVerifier
from service.errors import Unauthenticated, Unavailable
from service.settings import Settings
from tests.auth.conftest import (
    JwksServer,
    PrivateKey,
    ec_key,
    ed_key,
    jwks_server,
    public_jwk,
    rsa_key,
)
from tests.conftest import TEST_SECRET

__all__ = ["ec_key", "ed_key", "jwks_server", "rsa_key"]

MADE_UP = 10_000
Start = Callable[..., TokenVerifier]


@pytest.fixture
async def start(
    jwks_server: JwksServer, make_settings: Callable[..., Settings]
) -> AsyncIterator[Start]:
    started: list[TokenVerifier] = []

    def make(**overrides: Any) -> TokenVerifier:
        values: dict[str, Any] = {"jwt_jwks_url": jwks_server.url}
        started.append(TokenVerifier(make_settings(**(values | overrides))))
        return started[-1]

    yield make
    for verifier in started:
        await verifier.close()


def claims(**changes: Any) -> dict[str, Any]:
    return {"sub": "eve", "role": "admin", "exp": int(time.time()) + 60} | changes


def encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def part(content: object) -> str:
    return encoded(json.dumps(content).encode())


def forged(
    header: dict[str, Any],
    body: object = None,
    *,
    secret: bytes | None = None,
    digest: str = "sha256",
) -> str:
    """A token made by hand, as no library would make it."""
    signed = f"{part(header)}.{part(claims() if body is None else body)}"
    signature = hmac.digest(secret, signed.encode(), digest) if secret is not None else b""
    return f"{signed}.{encoded(signature)}"


def shapes_of(key: PrivateKey, jwk: dict[str, Any]) -> Iterator[bytes]:
    """Every form of a public key that a careless verifier might take for a secret."""
    public = key.public_key()
    for encoding in (Encoding.PEM, Encoding.DER):
        whole = public.public_bytes(encoding, PublicFormat.SubjectPublicKeyInfo)
        yield whole
        yield whole.strip()
        yield whole.replace(b"\n", b"\r\n")
    yield json.dumps(jwk).encode()
    for member in ("n", "x", "y"):
        if member in jwk:
            yield jwk[member].encode()
            yield base64.urlsafe_b64decode(jwk[member] + "==")
    yield b""


async def refused(verifier: TokenVerifier, token: str) -> bool:
    try:
        await verifier.verify(token)
    except Unauthenticated:
        return True
    return False


async def test_no_public_key_is_accepted_as_a_secret(
    start: Start,
    jwks_server: JwksServer,
    rsa_key: rsa.RSAPrivateKey,
    ec_key: ec.EllipticCurvePrivateKey,
    ed_key: ed25519.Ed25519PrivateKey,
) -> None:
    keys: dict[str, PrivateKey] = {"r": rsa_key, "e": ec_key, "d": ed_key}
    jwks_server.publish(*(public_jwk(key, kid) for kid, key in keys.items()))
    verifier = start()
    accepted = []
    for kid, key in keys.items():
        for secret in shapes_of(key, public_jwk(key, kid)):
            for name, digest in (("HS256", "sha256"), ("HS384", "sha384"), ("HS512", "sha512")):
                for alg in (name, name.lower(), f"{name} "):
                    token = forged({"alg": alg, "kid": kid}, secret=secret, digest=digest)
                    if not await refused(verifier, token):
                        accepted.append((kid, alg))
    assert accepted == []


@pytest.mark.parametrize("alg", ["none", "None", "NONE", "nOnE", "", None, 0, [], ["none"], {}])
@pytest.mark.parametrize("with_jwks", [False, True])
async def test_no_token_without_a_signature_holds(
    start: Start,
    settings: Settings,
    jwks_server: JwksServer,
    rsa_key: rsa.RSAPrivateKey,
    alg: object,
    with_jwks: bool,
) -> None:
    jwks_server.publish(public_jwk(rsa_key, "k"))
    verifier = start() if with_jwks else TokenVerifier(settings)
    header = {"alg": alg, "kid": "k", "typ": "JWT"}
    for token in (forged(header), forged(header) + ".", forged(header).rstrip(".")):
        assert await refused(verifier, token)


async def test_signatures_of_zeros_hold_for_no_key(
    start: Start,
    jwks_server: JwksServer,
    rsa_key: rsa.RSAPrivateKey,
    ec_key: ec.EllipticCurvePrivateKey,
    ed_key: ed25519.Ed25519PrivateKey,
) -> None:
    keys: list[tuple[PrivateKey, str]] = [(rsa_key, "RS256"), (ec_key, "ES256"), (ed_key, "EdDSA")]
    jwks_server.publish(*(public_jwk(key, name) for key, name in keys))
    verifier = start()
    for _, name in keys:
        for length in (0, 1, 32, 63, 64, 65, 256):
            token = forged({"alg": name, "kid": name}) + encoded(bytes(length))
            assert await refused(verifier, token), (name, length)


async def test_keys_and_addresses_that_a_token_brings_along_are_ignored(
    start: Start, jwks_server: JwksServer, rsa_key: rsa.RSAPrivateKey
) -> None:
    import jwt

    own = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    jwks_server.publish(public_jwk(rsa_key, "k"))
    verifier = start(jwks_cooldown_seconds=0)
    place = jwks_server.url.replace("jwks.json", "mine.json")
    for headers in (
        {"jwk": public_jwk(own, "k"), "kid": "k"},
        {"jku": place, "kid": "k"},
        {"jku": place, "kid": place},
        {"x5u": place, "x5c": ["MIIB"], "x5t": "a", "kid": "k"},
        {"kid": "k", "iss": place},
    ):
        token = jwt.encode(claims(iss=place), own, algorithm="RS256", headers=headers)
        assert await refused(verifier, token), headers
    assert set(jwks_server.requests) == {"/jwks.json"}


@pytest.mark.parametrize(
    "headers",
    [
        {"crit": ["exp-of-mine"], "exp-of-mine": 1},
        {"crit": ["b64"], "b64": False},
        {"crit": []},
        {"crit": "exp"},
        {"b64": False},
    ],
)
async def test_a_token_that_demands_what_is_not_understood_is_refused(
    settings: Settings, headers: dict[str, Any]
) -> None:
    # RFC 7515 §4.1.11: a critical header that is not understood makes the token invalid.
    token = forged({"alg": "HS256"} | headers, secret=TEST_SECRET.encode())
    assert await refused(TokenVerifier(settings), token)


@pytest.mark.parametrize(
    "changes",
    [
        {"role": "Admin"},
        {"role": " admin"},
        {"role": "admin\x00"},
        {"role": "ａdmin"},
        {"role": True},
        {"role": {"admin": True}},
        {"role": ["viewer", "admin"]},
        {"role": None},
        {"sub": 0},
        {"sub": None},
        {"sub": ["eve"]},
        {"sub": "a\u202eb"},
        {"sub": "a\r\nb"},
        {"exp": 1},
        {"exp": -1},
        {"exp": "9999999999"},
        {"exp": None},
        {"exp": True},
        {"exp": 1e400},
        {"nbf": 9_999_999_999},
        {"iat": 9_999_999_999},
        {"nbf": "x"},
    ],
    ids=str,
)
async def test_odd_claims_under_a_good_signature_are_refused(
    settings: Settings, changes: dict[str, Any]
) -> None:
    token = forged({"alg": "HS256"}, claims(**changes), secret=TEST_SECRET.encode())
    verifier = TokenVerifier(settings)
    if changes == {"exp": "9999999999"}:
        # A number in quotes: read as the number, which lies ahead; it must not hold for ever.
        assert await refused(verifier, token) or verifier._verified[token][1] < 1e11
    else:
        assert await refused(verifier, token)


async def test_ten_thousand_made_up_keys_cost_one_fetch_a_cooldown_and_no_memory(
    start: Start, jwks_server: JwksServer, rsa_key: rsa.RSAPrivateKey
) -> None:
    jwks_server.publish(public_jwk(rsa_key, "k"))
    verifier = start(jwks_cooldown_seconds=0.5)
    began = time.monotonic()
    for number in range(MADE_UP):
        assert await refused(verifier, forged({"alg": "RS256", "kid": f"made-up-{number}"}))
    cooldowns = (time.monotonic() - began) / 0.5
    assert 1 <= len(jwks_server.requests) <= 1 + cooldowns
    assert verifier._jwks is not None
    assert len(verifier._jwks._keys) == 1
    assert len(verifier._verified) == 0


async def test_a_key_that_was_taken_away_holds_no_longer_than_the_cache(
    start: Start,
    jwks_server: JwksServer,
    rsa_key: rsa.RSAPrivateKey,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import jwt

    new = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    jwks_server.publish(public_jwk(rsa_key, "old"))
    verifier = start(jwks_cache_seconds=300, jwks_cooldown_seconds=10)
    token = jwt.encode(
        claims(exp=time.time() + 3600), rsa_key, algorithm="RS256", headers={"kid": "old"}
    )
    assert (await verifier.verify(token)).subject == "eve"
    jwks_server.publish(public_jwk(new, "new"))
    later = time.monotonic() + 301
    monkeypatch.setattr(time, "monotonic", lambda: later)
    assert await refused(verifier, token)


async def test_without_the_providers_keys_every_token_is_answered_503(
    make_settings: Callable[..., Settings], pg_dsn: str
) -> None:
    from service.app import create_app

    settings = make_settings(
        database_url=SecretStr(pg_dsn), jwt_jwks_url="http://127.0.0.1:1/jwks.json"
    )
    app = create_app(settings, run_worker=False)
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    tokens = [
        forged({"alg": "RS256", "kid": "k"}),
        forged({"alg": "HS256"}, secret=TEST_SECRET.encode()),
        forged({"alg": "none"}),
    ]
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://service.test") as client,
    ):
        for token in tokens:
            answer = await client.get("/admin/jobs", headers={"authorization": f"Bearer {token}"})
            assert answer.status_code == 503
            assert int(answer.headers["retry-after"]) > 0
            assert "127.0.0.1" not in answer.text
        with pytest.raises(Unavailable):
            await app.state.authenticator.tokens.verify(tokens[0])
