"""Machine credentials: what a machine may run, renewing by the old key, and being banned."""

import ssl
import tempfile
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from masche.identity import credential, keys
from masche.identity.authority import DAY, Authority, Issued
from masche.identity.bundle import TrustBundle
from masche.identity.credential import GRACE, LIFETIME, CredentialError, Machines, refusal
from masche.identity.csr import CsrError
from masche.identity.join import Grant
from masche.identity.keys import PrivateKey
from masche.identity.spiffe import SpiffeId
from masche.testing.records import MemoryRecords

NOW = 1_800_000_000.0


def _example() -> tuple[tuple[bytes, ...], bytes, bytes, TrustBundle]:
    with tempfile.TemporaryDirectory() as folder:
        made = Authority.open(Path(folder) / "a", "mesh.local", now=NOW, audit=lambda _: None)
        old = keys.generate()
        issued = made.sign(keys.signing_request(old), SpiffeId.of_machine("mesh.local", "m"), now=NOW)
        request = keys.signing_request(keys.generate())
        return (
            tuple(found.public_bytes(Encoding.DER) for found in x509.load_pem_x509_certificates(issued.chain.encode())),
            request,
            credential.prove(old, issued.chain, request),
            made.bundle,
        )


CHAIN, REQUEST, PROOF, BUNDLE = _example()


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority.open(tmp_path / "a", "mesh.local", now=NOW, audit=lambda _: None)


@pytest.fixture
def machines(authority: Authority) -> Machines:
    return Machines(MemoryRecords(), authority)


async def welcomed(machines: Machines, name: str = "m") -> tuple[Issued, PrivateKey]:
    key = keys.generate()
    return await machines.welcome(name, Grant(), keys.signing_request(key), now=NOW), key


async def renewed(machines: Machines, chain: str, old: PrivateKey, *, now: float) -> tuple[Issued, PrivateKey]:
    key = keys.generate()
    request = keys.signing_request(key)
    return await machines.renew(chain, request, credential.prove(old, chain, request), now=now), key


@pytest.mark.parametrize(
    ("namespaces", "accounts", "asked", "allowed"),
    [
        (("*",), ("*",), ("shop", "web"), True),
        (("shop",), ("web",), ("shop", "web"), True),
        (("shop",), ("web",), ("shops", "web"), False),
        (("shop",), ("web",), ("shop", "webs"), False),
        (("team-*",), ("*",), ("team-a", "web"), True),
        (("team-*",), ("*",), ("team", "web"), False),
        (("team-*",), ("*",), ("xteam-a", "web"), False),
        (("a", "b"), ("x", "y"), ("b", "y"), True),
        ((), ("*",), ("shop", "web"), False),
        (("",), ("*",), ("", "web"), False),
        ((".*",), ("*",), ("shop", "web"), False),
        (("s[a-z]op",), ("*",), ("shop", "web"), False),
    ],
)
def test_a_grant_allows_what_it_names(
    namespaces: tuple[str, ...], accounts: tuple[str, ...], asked: tuple[str, str], *, allowed: bool
) -> None:
    why = refusal(Grant(namespaces=namespaces, service_accounts=accounts), *asked)
    assert (why == "") is allowed


async def test_a_credential_names_the_machine_for_thirty_days(machines: Machines) -> None:
    issued, _ = await welcomed(machines, "laptop")
    assert str(issued.identity) == "spiffe://mesh.local/machine/laptop"
    assert issued.lifetime == LIFETIME


@pytest.mark.parametrize("late", [-LIFETIME / 2, 1.0, GRACE - 10])
async def test_it_is_renewed_before_and_after_its_leaf_ends(machines: Machines, late: float) -> None:
    issued, key = await welcomed(machines)
    again, _ = await renewed(machines, issued.chain, key, now=issued.not_after + late)
    assert again.identity == issued.identity
    assert again.serial != issued.serial


async def test_long_after_its_end_it_is_not_renewed(machines: Machines) -> None:
    issued, key = await welcomed(machines)
    with pytest.raises(CredentialError, match="join this machine again"):
        await renewed(machines, issued.chain, key, now=issued.not_after + GRACE + 1)


async def test_a_lost_answer_does_not_lock_the_machine_out_and_an_old_copy_is_refused(machines: Machines) -> None:
    first, key = await welcomed(machines)
    await renewed(machines, first.chain, key, now=NOW)
    second, second_key = await renewed(machines, first.chain, key, now=NOW)
    await renewed(machines, second.chain, second_key, now=NOW)
    with pytest.raises(CredentialError, match="was replaced"):
        await renewed(machines, first.chain, key, now=NOW)


async def test_a_revoked_machine_is_not_renewed_and_is_known_to_be(machines: Machines) -> None:
    issued, key = await welcomed(machines)
    assert not machines.revoked
    assert await machines.revoke("m", why="stolen")
    assert machines.revoked == {"m"}
    with pytest.raises(CredentialError, match="stolen"):
        await renewed(machines, issued.chain, key, now=NOW)
    assert not await machines.revoke("nobody", why="")


async def test_another_control_plane_learns_of_a_ban_from_the_records(authority: Authority) -> None:
    records = MemoryRecords()
    here, there = Machines(records, authority), Machines(records, authority)
    await welcomed(here)
    await here.revoke("m", why="stolen")
    assert set(await there.load()) == {"m"}
    assert there.revoked == {"m"}


async def test_a_proof_fits_one_key_one_request_and_one_credential(machines: Machines) -> None:
    issued, key = await welcomed(machines)
    other, other_key = await welcomed(machines, "other")
    request, second = keys.signing_request(keys.generate()), keys.signing_request(keys.generate())
    proof = credential.prove(key, issued.chain, request)
    for chain, asked, shown in (
        (issued.chain, second, proof),
        (other.chain, request, proof),
        (issued.chain, request, credential.prove(other_key, issued.chain, request)),
        (issued.chain, request, b""),
        (issued.chain, request, b"junk"),
    ):
        with pytest.raises(CredentialError, match="proof is not signed"):
            await machines.renew(chain, asked, shown, now=NOW)


async def test_a_renewal_needs_a_new_key(machines: Machines) -> None:
    issued, key = await welcomed(machines)
    request = keys.signing_request(key)
    with pytest.raises(CsrError, match="new key"):
        await machines.renew(issued.chain, request, credential.prove(key, issued.chain, request), now=NOW)


async def test_a_workloads_certificate_is_no_machine_credential(machines: Machines, authority: Authority) -> None:
    key = keys.generate()
    identity = SpiffeId.of_workload("mesh.local", "shop", "web")
    issued = authority.sign(keys.signing_request(key), identity, now=NOW)
    with pytest.raises(CredentialError, match="is not a machine"):
        await renewed(machines, issued.chain, key, now=NOW)


async def test_a_credential_of_another_authority_is_refused(machines: Machines, tmp_path: Path) -> None:
    other = Authority.open(tmp_path / "b", "mesh.local", now=NOW, audit=lambda _: None)
    key = keys.generate()
    issued = other.sign(keys.signing_request(key), SpiffeId.of_machine("mesh.local", "m"), now=NOW)
    await welcomed(machines)
    with pytest.raises(CredentialError, match="does not verify"):
        await renewed(machines, issued.chain, key, now=NOW)


@pytest.mark.parametrize("chain", ["", "junk", "-----BEGIN CERTIFICATE-----\n"])
async def test_junk_is_refused(machines: Machines, chain: str) -> None:
    with pytest.raises(CredentialError, match="can not be read"):
        await machines.renew(chain, b"", b"", now=NOW)


@pytest.mark.filterwarnings("ignore:Parsed a serial number which wasn't positive")  # one of the bytes is its sign
@given(st.integers(0, 2000), st.integers(1, 255))
def test_a_chain_with_any_byte_changed_is_refused(position: int, change: int) -> None:
    """Only the leaf is changed: what follows it is not what is proved."""
    leaf, *rest = CHAIN
    data = bytearray(leaf)
    data[position % len(data)] ^= change
    pem = "".join(ssl.DER_cert_to_PEM_cert(bytes(part)) for part in (data, *rest))
    with pytest.raises(CredentialError):
        credential.proven_machine(pem, REQUEST, PROOF, BUNDLE, now=NOW)


async def test_a_refused_request_takes_no_name(machines: Machines) -> None:
    with pytest.raises(CsrError):
        await machines.welcome("m", Grant(), b"junk", now=NOW)
    issued, _ = await welcomed(machines, "m")
    assert str(issued.identity).endswith("/m")
    leaf = x509.load_pem_x509_certificate(issued.chain.encode())
    assert leaf.not_valid_after_utc.timestamp() == NOW + 30 * DAY
