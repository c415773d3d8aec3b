"""Join strings and tokens: spent once whatever happens, kept as hashes, guessed slowly."""

import asyncio
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from masche.identity import keys
from masche.identity.admission import Admission, TooManyFailuresError
from masche.identity.authority import Authority
from masche.identity.credential import CredentialError, Machines
from masche.identity.csr import CsrError
from masche.identity.join import BUCKET, HOUR, Attempts, Doorkeeper, Grant, JoinError, JoinString, Tokens
from masche.identity.keys import Secret
from masche.testing.records import MemoryRecords

NOW = 1_800_000_000.0
PIN = "ab" * 32


def token_text(token: Secret) -> str:
    return token.reveal().decode()


async def test_a_token_gives_its_grant_once() -> None:
    tokens = Tokens(MemoryRecords())
    token = token_text(await tokens.issue(Grant(namespaces=("shop",), note="laptop"), now=NOW))
    grant = await tokens.spend(token, now=NOW + 10)
    assert grant.namespaces == ("shop",)
    with pytest.raises(JoinError, match="already used"):
        await tokens.spend(token, now=NOW + 10)


async def test_of_a_hundred_uses_at_once_one_succeeds() -> None:
    records = MemoryRecords()
    members = [Tokens(records) for _ in range(3)]
    token = token_text(await members[0].issue(Grant(), now=NOW))
    uses = [members[i % 3].spend(token, now=NOW + 1) for i in range(100)]
    found = await asyncio.gather(*uses, return_exceptions=True)
    assert sum(isinstance(f, Grant) for f in found) == 1
    assert sum(isinstance(f, JoinError) for f in found) == 99


async def test_being_killed_after_taking_never_spends_twice() -> None:
    """The kill: the taker never returns from the store, whose taking is durable."""

    class Dying(MemoryRecords):
        async def take(self, bucket: str, key: str) -> bytes | None:
            await super().take(bucket, key)
            raise KeyboardInterrupt

    records = Dying()
    token = token_text(await Tokens(records).issue(Grant(), now=NOW))
    with pytest.raises(KeyboardInterrupt):
        await Tokens(records).spend(token, now=NOW)
    survivor = MemoryRecords()
    survivor.buckets = records.buckets
    with pytest.raises(JoinError):
        await Tokens(survivor).spend(token, now=NOW)


async def test_being_killed_before_taking_leaves_the_token_good() -> None:
    class Dying(MemoryRecords):
        async def take(self, bucket: str, key: str) -> bytes | None:
            raise KeyboardInterrupt

    records = Dying()
    token = token_text(await Tokens(records).issue(Grant(), now=NOW))
    with pytest.raises(KeyboardInterrupt):
        await Tokens(records).spend(token, now=NOW)
    survivor = MemoryRecords()
    survivor.buckets = records.buckets
    assert await Tokens(survivor).spend(token, now=NOW)


async def test_an_expired_token_is_refused_and_swept() -> None:
    tokens = Tokens(MemoryRecords())
    token = token_text(await tokens.issue(Grant(), now=NOW))
    await tokens.issue(Grant(), now=NOW, lifetime=2 * HOUR)
    assert len(await tokens.unspent(now=NOW + HOUR)) == 1
    with pytest.raises(JoinError):
        await tokens.spend(token, now=NOW + HOUR)


async def test_a_withdrawn_token_is_refused() -> None:
    tokens = Tokens(MemoryRecords())
    token = token_text(await tokens.issue(Grant(), now=NOW))
    [token_id] = await tokens.unspent(now=NOW)
    assert await tokens.withdraw(token_id)
    assert not await tokens.withdraw(token_id)
    with pytest.raises(JoinError):
        await tokens.spend(token, now=NOW)


async def test_the_store_holds_no_token() -> None:
    records = MemoryRecords()
    token = await Tokens(records).issue(Grant(), now=NOW)
    from base64 import urlsafe_b64decode

    raw = urlsafe_b64decode(token.reveal() + b"=")
    for key, value in records.buckets[BUCKET].items():
        for form in (token.reveal(), raw, raw.hex().encode()):
            assert form not in value
            assert form not in key.encode()
    assert "Secret(...)" in repr(token)


@pytest.mark.parametrize("bad", ["", "x", "A" * 43 + "=", "A" * 42, "A" * 44, "A" * 42 + "B", "!" * 43, "é" * 43])
async def test_a_token_has_one_spelling(bad: str) -> None:
    with pytest.raises(JoinError, match="unknown, expired or already used"):
        await Tokens(MemoryRecords()).spend(bad, now=NOW)


@pytest.mark.parametrize("host", ["localhost", "10.0.0.1", "cp.example.org", "::1"])
def test_a_join_string_reads_back(host: str) -> None:
    made = JoinString(host=host, port=15013, root=PIN, token=Secret(b"A" * 43))
    assert JoinString.parse(f"  {made.reveal()}\n") == made
    assert "A" * 43 not in repr(made)


GOOD = f"masche://host:15013#{PIN}.{'A' * 43}"


@pytest.mark.parametrize(
    "bad",
    [
        "",
        "masche://",
        GOOD.replace("masche", "http"),
        GOOD.replace(":15013", ""),
        GOOD.replace("15013", "99999"),
        GOOD.replace("15013", "x"),
        GOOD.replace("host", ""),
        GOOD.replace("host", "user@host"),
        GOOD.replace("#", "/#"),
        GOOD.replace("#", "?q#"),
        GOOD.replace("#", ""),
        GOOD.replace(PIN, PIN[:-1]),
        GOOD.replace(PIN, PIN.upper()),
        GOOD.replace(".A", "A"),
        GOOD[:-1],
        GOOD + "A",
        "masche://[::1#x",
    ],
)
def test_a_bad_join_string_is_refused_without_showing_the_token(bad: str) -> None:
    with pytest.raises(JoinError) as caught:
        JoinString.parse(bad)
    assert "A" * 20 not in str(caught.value)


@given(st.text(max_size=100))
def test_junk_is_a_join_error(text: str) -> None:
    for candidate in (text, f"masche://{text}", f"masche://h:1#{PIN}.{text}"):
        with pytest.raises(JoinError):
            JoinString.parse(candidate)


def test_a_source_that_fails_too_often_waits_and_others_do_not() -> None:
    door = Doorkeeper(Attempts(burst=3, pause=10.0))
    for _ in range(3):
        assert door.is_open("a", now=0.0)
        door.failed("a", now=0.0)
    assert not door.is_open("a", now=0.0)
    assert not door.is_open("a", now=-100.0)
    assert door.is_open("b", now=0.0)
    assert door.is_open("a", now=10.5)


def test_the_table_of_failures_is_bounded() -> None:
    door = Doorkeeper(Attempts(sources=100))
    for i in range(1000):
        door.failed(str(i), now=0.0)
    assert len(door._debts) == 100


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority.open(tmp_path / "a", "mesh.local", now=time.time(), audit=lambda _: None)


async def test_a_hundred_thousand_guesses_get_ten_looks(authority: Authority) -> None:
    records = MemoryRecords()
    tokens = Tokens(records)
    await tokens.issue(Grant(), now=NOW)
    admission = Admission(tokens, Machines(records, authority), "mesh.local")
    request = keys.signing_request(keys.generate())
    looks = 0
    for _ in range(100_000):
        try:
            await admission.join("10.0.0.9", token="A" * 43, name="m", request=request, now=NOW, clock=0.0)
        except JoinError:
            looks += 1
        except TooManyFailuresError:
            continue
    assert looks == 10


async def test_a_bad_request_or_name_does_not_spend_the_token(authority: Authority) -> None:
    records = MemoryRecords()
    tokens = Tokens(records)
    admission = Admission(tokens, Machines(records, authority), "mesh.local")
    token = token_text(await tokens.issue(Grant(), now=NOW))
    good = keys.signing_request(keys.generate())
    with pytest.raises(CsrError):
        await admission.join("s", token=token, name="m", request=b"junk", now=NOW, clock=0.0)
    with pytest.raises(CredentialError, match="machine's name"):
        await admission.join("s", token=token, name="a/b", request=good, now=NOW, clock=0.0)
    machine, issued = await admission.join("s", token=token, name="m", request=good, now=time.time(), clock=0.0)
    assert (machine, str(issued.identity)) == ("m", "spiffe://mesh.local/machine/m")


@pytest.mark.parametrize("wrong", ["Bad!", "", "-a", "a b", "*a", "a*b"])
async def test_no_token_is_made_that_could_never_be_of_use(wrong: str) -> None:
    tokens = Tokens(MemoryRecords())
    for grant in (Grant(namespaces=("shop", wrong)), Grant(service_accounts=(wrong,))):
        with pytest.raises(JoinError, match="names no namespace or service account"):
            await tokens.issue(grant, now=NOW)
    with pytest.raises(JoinError):
        await tokens.issue(Grant(namespaces=()), now=NOW)
    await tokens.issue(Grant(namespaces=("shop", "team-*"), service_accounts=("a.b-c", "*")), now=NOW)
