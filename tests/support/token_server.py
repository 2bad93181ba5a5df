"""An OAuth server that hands out tokens only to who asks as Segment wants to be asked.

It checks the signed assertion by its own clock, which may go wrong on purpose (`skew`), and says which tokens are good.
Whatever `faults.py` can do to a request it can do first, by script. It knows nothing of the tracking API; a test that
needs both asks `accepts` in the script of a second server:

    FaultServer(lambda request: answer(200 if tokens.accepts(request.headers["Authorization"]) else 401))
"""

import functools
import secrets
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from email.utils import formatdate
from typing import Any, Self
from urllib.parse import parse_qs

import jwt
import orjson
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from segment_async import OAuth

from .exchange import ReceivedRequest
from .fault_server import FaultServer
from .faults import OnRequest, answer

ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"


@functools.cache
def private_key(*name: str) -> rsa.RSAPrivateKey:
    """The key of the tests' OAuth application, or another one: one a process, as making one takes a while."""
    return rsa.generate_private_key(public_exponent=65_537, key_size=2048)


def private_key_pem(*name: str) -> str:
    """The same key as a customer has it from Segment's page: PEM, PKCS 8, no password."""
    return private_key(*name).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def oauth(**options: Any) -> OAuth:
    """The credentials that a `TokenServer` takes, but for these options."""
    return OAuth(**{"client_id": "the-client", "client_key": private_key_pem(), "key_id": "the-key", **options})


class Refused(Exception):
    """What the server has against a request: the status to answer, and words."""

    def __init__(self, status: int, words: str) -> None:
        super().__init__(words)
        self.status = status


class TokenServer:
    """A token server on a loopback port of its own, for one client id and one key.

    `lifetime` is what `expires_in` says, in seconds; `skew` is how far the server's clock is ahead of `clock`. The
    steps of `script` are played before the first proper answer, one for each request.
    """

    def __init__(
        self,
        script: Iterable[OnRequest] = (),
        *,
        client_id: str = "the-client",
        key_id: str = "the-key",
        scope: str = "tracking_api:write",
        lifetime: float = 3600,
        skew: float = 0.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.script = deque(script)
        self.client_id = client_id
        self.key_id = key_id
        self.scope = scope
        self.lifetime = lifetime
        self.skew = skew
        self.complaints: list[str] = []
        self.tokens: list[str] = []
        self._clock = clock
        self._good_until: dict[str, float] = {}
        self._used_ids: set[str] = set()
        self._server = FaultServer(self._choose)

    @property
    def url(self) -> str:
        return self._server.url

    @property
    def requests(self) -> list[ReceivedRequest]:
        """Every request, answered by script or properly."""
        return self._server.requests

    @property
    def refreshes(self) -> int:
        """How many tokens were handed out."""
        return len(self.tokens)

    def accepts(self, authorization: str | None) -> bool:
        """Whether a tracking API would let this `Authorization` pass at this moment."""
        token = (authorization or "").removeprefix("Bearer ")
        return self._good_until.get(token, 0.0) > self._now()

    def revoke(self) -> None:
        """Refuse all tokens handed out so far, whatever lifetime they were given."""
        self._good_until.clear()

    async def go_down(self) -> None:
        await self._server.go_down()

    def come_up(self) -> None:
        self._server.come_up()

    async def __aenter__(self) -> Self:
        await self._server.__aenter__()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._server.__aexit__(*exc_info)

    def _now(self) -> float:
        return self._clock() + self.skew

    def _choose(self, request: ReceivedRequest) -> OnRequest:
        if self.script:
            return self.script.popleft()
        try:
            self._check(request)
        except Refused as refusal:
            self.complaints.append(str(refusal))
            return self._say(refusal.status, {"error": "invalid_client", "error_description": str(refusal)})
        return self._say(200, self._issue())

    def _say(self, status: int, said: Mapping[str, Any]) -> OnRequest:
        headers = {"Content-Type": "application/json", "Date": formatdate(self._now(), usegmt=True)}
        return answer(status, headers, orjson.dumps(said))

    def _issue(self) -> dict[str, Any]:
        token = f"token-{len(self.tokens) + 1}-{secrets.token_hex(8)}"
        self.tokens.append(token)
        self._good_until[token] = self._now() + self.lifetime
        return {"access_token": token, "expires_in": self.lifetime, "token_type": "Bearer", "scope": self.scope}

    def _check(self, request: ReceivedRequest) -> None:
        if (request.method, request.target) != ("POST", "/token"):
            raise Refused(404, f"there is no {request.method} {request.target} here")
        if request.headers.get("Content-Type", "").split(";")[0] != "application/x-www-form-urlencoded":
            raise Refused(415, "the Content-Type is not that of a form")
        form = parse_qs(request.body.decode(), strict_parsing=True)
        assertion = form.pop("client_assertion", [""])[0]
        expected = {
            "grant_type": ["client_credentials"],
            "client_assertion_type": [ASSERTION_TYPE],
            "scope": [self.scope],
        }
        if form != expected:
            raise Refused(400, f"the form holds {form}")
        self._check_claims(self._decode(assertion))

    def _decode(self, assertion: str) -> dict[str, Any]:
        try:
            if jwt.get_unverified_header(assertion).get("kid") != self.key_id:
                raise Refused(401, "the kid is unknown")
            claims: dict[str, Any] = jwt.decode(
                assertion,
                private_key().public_key(),
                algorithms=["RS256"],
                audience=self.url,
                issuer=self.client_id,
                # By our own clock, below.
                options={"verify_exp": False, "verify_iat": False, "require": ["sub", "iat", "exp", "jti"]},
            )
        except jwt.PyJWTError as error:
            raise Refused(401, f"the assertion is no good: {error}") from None
        return claims

    def _check_claims(self, claims: Mapping[str, Any]) -> None:
        now = self._now()
        if claims["sub"] != self.client_id:
            raise Refused(401, "the sub is not the iss")
        if claims["iat"] > now:
            raise Refused(400, "iat: the token is used too early")
        if claims["exp"] <= now:
            raise Refused(400, "exp: the token is expired")
        if claims["exp"] > now + 60:
            raise Refused(400, "exp: more than 60 seconds ahead")
        if not claims["jti"] or claims["jti"] in self._used_ids:
            raise Refused(401, "the jti was used before")
        self._used_ids.add(claims["jti"])
