"""Bearer tokens under a JWKS, against a real HTTP server."""

import asyncio
import base64
import hashlib
import hmac
import json
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from service.auth import jwks as jwks_module
from service.auth.jwks import MAX_DOCUMENT_BYTES
from service.auth.tokens import TokenVerifier
from service.errors import Unauthenticated, Unavailable
from service.settings import Settings
from tests.auth.conftest import JwksServer, PrivateKey, public_jwk
from tests.conftest import TEST_SECRET

Sign = Callable[..., str]
Start = Callable[..., TokenVerifier]


@pytest.fixture
def claims() -> dict[str, Any]:
    return {"sub": "ann", "role": "operator", "exp": int(time.time()) + 60}


@pytest.fixture
async def start(
    jwks_server: JwksServer, make_settings: Callable[..., Settings]
) -> AsyncIterator[Start]:
    started: list[TokenVerifier] = []

    def make(**overrides: Any) -> TokenVerifier:
        values: dict[str, Any] = {"jwt_jwks_url": jwks_server.url, "jwks_cooldown_seconds": 0}
        verifier = TokenVerifier(make_settings(**(values | overrides)))
        started.append(verifier)
        return verifier

    yield make
    for verifier in started:
        await verifier.close()


async def test_each_kind_of_key_verifies_tokens_of_its_algorithm(
    start: Start,
    sign: Sign,
    jwks_server: JwksServer,
    rsa_key: rsa.RSAPrivateKey,
    ec_key: ec.EllipticCurvePrivateKey,
    ed_key: ed25519.Ed25519PrivateKey,
) -> None:
    keys: list[tuple[PrivateKey, str]] = [
        (rsa_key, "RS256"),
        (ec_key, "ES256"),
        (ed_key, "EdDSA"),
    ]
    jwks_server.publish(*(public_jwk(key, name) for key, name in keys))
    verifier = start()
    for key, name in keys:
        assert (await verifier.verify(sign(key, name, kid=name))).subject == "ann"
    assert len(jwks_server.requests) == 1


async def test_a_public_key_used_as_a_secret_signs_nothing(
    start: Start, claims: dict[str, Any], jwks_server: JwksServer, rsa_key: rsa.RSAPrivateKey
) -> None:
    jwks_server.publish(public_jwk(rsa_key, "k"))
    pem = rsa_key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    # PyJWT refuses to make such a token, so it is made by hand.
    signed = f"{_part({'alg': 'HS256', 'kid': 'k'})}.{_part(claims)}"
    signature = hmac.digest(pem, signed.encode(), hashlib.sha256)
    token = f"{signed}.{base64.urlsafe_b64encode(signature).rstrip(b'=').decode()}"
    with pytest.raises(Unauthenticated, match="is not valid"):
        await start().verify(token)


def _part(content: dict[str, Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(content).encode()).rstrip(b"=").decode()


async def test_the_secret_is_out_of_use_where_a_jwks_is_set(
    start: Start, sign: Sign, jwks_server: JwksServer, rsa_key: rsa.RSAPrivateKey
) -> None:
    jwks_server.publish(public_jwk(rsa_key, "k"))
    token = sign(TEST_SECRET, "HS256", kid="k")
    with pytest.raises(Unauthenticated):
        await start().verify(token)


async def test_a_symmetric_key_in_the_jwks_is_left_out(
    start: Start, sign: Sign, jwks_server: JwksServer, rsa_key: rsa.RSAPrivateKey
) -> None:
    secret = "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0LXNlY3JldA"
    jwks_server.publish(
        {"kty": "oct", "kid": "o", "k": secret, "alg": "HS256"}, public_jwk(rsa_key, "k")
    )
    with pytest.raises(Unauthenticated):
        await start().verify(sign("secret-secret-secret-secret-secret", "HS256", kid="o"))


async def test_weak_and_foreign_keys_are_left_out_without_harm_to_the_others(
    start: Start, sign: Sign, jwks_server: JwksServer, rsa_key: rsa.RSAPrivateKey
) -> None:
    weak = rsa.generate_private_key(public_exponent=65537, key_size=1024)
    jwks_server.publish(
        public_jwk(weak, "weak"),
        public_jwk(rsa_key, "enc", use="enc"),
        public_jwk(rsa_key, "pss", alg="PS256"),
        {"kty": "RSA", "kid": "broken", "n": "!", "e": "AQAB"},
        {"kty": "future", "kid": "f"},
        public_jwk(rsa_key, "good"),
    )
    verifier = start()
    assert (await verifier.verify(sign(rsa_key, "RS256", kid="good"))).subject == "ann"
    for kid, key in (("enc", rsa_key), ("pss", rsa_key), ("broken", rsa_key), ("f", rsa_key)):
        with pytest.raises(Unauthenticated):
            await verifier.verify(sign(key, "RS256", kid=kid))


async def test_a_token_without_a_key_id_holds_only_where_there_is_one_key(
    start: Start,
    sign: Sign,
    jwks_server: JwksServer,
    rsa_key: rsa.RSAPrivateKey,
    ec_key: ec.EllipticCurvePrivateKey,
) -> None:
    jwks_server.publish(public_jwk(rsa_key, "k"))
    assert (await start().verify(sign(rsa_key, "RS256"))).subject == "ann"
    jwks_server.publish(public_jwk(rsa_key, "k"), public_jwk(ec_key, "e"))
    with pytest.raises(Unauthenticated):
        await start().verify(sign(rsa_key, "RS256"))


@pytest.mark.parametrize("kid", ["../../etc/passwd", "' OR 1=1 --", "http://127.0.0.1:1/x", "k\0"])
async def test_a_key_id_is_only_ever_looked_up(
    start: Start, sign: Sign, jwks_server: JwksServer, rsa_key: rsa.RSAPrivateKey, kid: str
) -> None:
    jwks_server.publish(public_jwk(rsa_key, "k"))
    with pytest.raises(Unauthenticated, match="not known"):
        await start().verify(sign(rsa_key, "RS256", kid=kid))
    assert set(jwks_server.requests) == {"/jwks.json"}


async def test_a_new_key_is_found_when_the_first_token_names_it(
    start: Start,
    sign: Sign,
    jwks_server: JwksServer,
    rsa_key: rsa.RSAPrivateKey,
    ec_key: ec.EllipticCurvePrivateKey,
) -> None:
    jwks_server.publish(public_jwk(rsa_key, "old"))
    verifier = start()
    await verifier.verify(sign(rsa_key, "RS256", kid="old"))
    jwks_server.publish(public_jwk(ec_key, "new"))
    assert (await verifier.verify(sign(ec_key, "ES256", kid="new"))).subject == "ann"
    with pytest.raises(Unauthenticated):
        await verifier.verify(sign(rsa_key, "RS256", kid="old", sub="ben"))


async def test_made_up_key_ids_cause_one_fetch_a_cooldown(
    start: Start, sign: Sign, jwks_server: JwksServer, rsa_key: rsa.RSAPrivateKey
) -> None:
    jwks_server.publish(public_jwk(rsa_key, "k"))
    verifier = start(jwks_cooldown_seconds=3600)
    tokens = [sign(rsa_key, "RS256", kid=f"made-up-{number}") for number in range(20)]
    results = await asyncio.gather(*map(verifier.verify, tokens), return_exceptions=True)
    assert all(isinstance(result, Unauthenticated) for result in results)
    assert len(jwks_server.requests) == 1


async def test_concurrent_first_requests_share_one_fetch(
    start: Start, sign: Sign, jwks_server: JwksServer, rsa_key: rsa.RSAPrivateKey
) -> None:
    jwks_server.publish(public_jwk(rsa_key, "k"))
    verifier = start()
    tokens = [sign(rsa_key, "RS256", kid="k", sub=f"u{number}") for number in range(20)]
    principals = await asyncio.gather(*map(verifier.verify, tokens))
    assert len(principals) == 20
    assert len(jwks_server.requests) == 1


async def test_the_old_keys_hold_while_the_provider_is_down(
    start: Start, sign: Sign, jwks_server: JwksServer, rsa_key: rsa.RSAPrivateKey
) -> None:
    jwks_server.publish(public_jwk(rsa_key, "k"))
    verifier = start()
    await verifier.verify(sign(rsa_key, "RS256", kid="k"))
    jwks_server.status = 500
    assert verifier._jwks is not None
    verifier._jwks._cache_seconds = 0
    assert (await verifier.verify(sign(rsa_key, "RS256", kid="k", sub="ben"))).subject == "ben"
    assert len(jwks_server.requests) == 2


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (500, b"oops"),
        (200, b"not json"),
        (200, b"[]"),
        (200, b'{"keys": {}}'),
        (200, b'{"keys": [1, null]}'),
        (200, b'{"keys": []}'),
        (200, b"[" * 100_000),
        (200, b" " * (MAX_DOCUMENT_BYTES + 1)),
    ],
    ids=["500", "text", "list", "keys-object", "odd-keys", "no-keys", "deep", "too-long"],
)
async def test_without_any_signing_key_the_answer_is_503_and_not_401(
    start: Start,
    sign: Sign,
    jwks_server: JwksServer,
    rsa_key: rsa.RSAPrivateKey,
    status: int,
    body: bytes,
) -> None:
    jwks_server.status, jwks_server.body = status, body
    with pytest.raises(Unavailable):
        await start().verify(sign(rsa_key, "RS256", kid="k"))


async def test_redirects_are_not_followed(
    start: Start, sign: Sign, jwks_server: JwksServer, rsa_key: rsa.RSAPrivateKey
) -> None:
    jwks_server.publish(public_jwk(rsa_key, "k"))
    jwks_server.status, jwks_server.location = 302, "/elsewhere"
    with pytest.raises(Unavailable):
        await start().verify(sign(rsa_key, "RS256", kid="k"))
    assert jwks_server.requests == ["/jwks.json"]


async def test_a_provider_that_never_answers_is_given_up(
    start: Start, sign: Sign, rsa_key: rsa.RSAPrivateKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jwks_module, "FETCH_TIMEOUT_SECONDS", 0.2)
    release = asyncio.Event()

    async def hang(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await release.wait()
        writer.close()

    server = await asyncio.start_server(hang, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    verifier = start(jwt_jwks_url=f"http://127.0.0.1:{port}/jwks.json")
    try:
        with pytest.raises(Unavailable):
            await asyncio.wait_for(verifier.verify(sign(rsa_key, "RS256", kid="k")), timeout=5)
    finally:
        release.set()
        server.close()
        await server.wait_closed()
