"""The certificate of a process: obtained once it is known, renewed when roots change, withdrawn when it has ended."""

import asyncio
import stat
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import msgspec
import pytest

from e2e.waiting import until as blocking_until
from masche.identity import keys
from masche.identity.authority import Authority
from masche.identity.spiffe import SpiffeId
from masche.library.core.ports import NotReadyError
from masche.library.core.tls import Certificates
from masche.library.life.certificate import keeper_of
from masche.library.life.memory import Folder
from masche.link.messages import Roots, SignReply, SignRequest
from masche.link.refusal import RefusedError
from masche.link.renewal import Kept, Renewal
from masche.model.refs import Name

DOMAIN = "mesh.local"
ORDERS = Name("shop", "orders-1")
ID = SpiffeId.of_workload(DOMAIN, "shop", "orders")


@dataclass
class Office:
    """A control plane's part: knows the process once ``is_known``, and signs unless it has a reason not to."""

    authority: Authority
    why_not: str = ""
    asked: list[SignRequest] = field(default_factory=list[SignRequest])
    is_known: asyncio.Event = field(default_factory=asyncio.Event)

    def roots(self) -> Roots:
        return Roots(trust_domain=DOMAIN, roots=self.authority.bundle.pem)

    async def ask(self) -> tuple[str, Name]:
        await self.is_known.wait()
        return "library~orders-1.shop", ORDERS

    async def sign(self, request: SignRequest) -> SignReply:
        self.asked.append(request)
        if self.why_not:
            raise RefusedError(self.why_not)
        issued = self.authority.sign(request.csr, ID, now=time.time(), lifetime=3600.0)
        return SignReply(
            chain=issued.chain,
            not_before=issued.not_before,
            not_after=issued.not_after,
            lifetime=issued.lifetime,
            bundle=self.roots(),
        )


@pytest.fixture
def office(tmp_path: Path) -> Office:
    return Office(Authority.open(tmp_path / "authority", DOMAIN, now=time.time(), audit=lambda _: None))


@asynccontextmanager
async def keeping(keeper: Renewal, office: Office) -> AsyncGenerator[None]:
    task = asyncio.ensure_future(keeper.run(office.ask, office.sign, on_change=lambda: None))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until(condition: Callable[[], object], what: str) -> None:
    await asyncio.to_thread(blocking_until, condition, what, within=10.0)


async def test_it_is_obtained_once_the_process_is_known(office: Office) -> None:
    certificates = Certificates()
    keeper = keeper_of(certificates, rng=Random(1))
    async with keeping(keeper, office):
        await asyncio.sleep(0)
        assert office.asked == []
        office.is_known.set()
        await until(lambda: keeper.is_held, "there is one")
    assert certificates.spiffe_id == str(ID)
    [told] = keeper.report(ORDERS)
    assert (told.workload, told.error) == (ORDERS, "")
    assert told.not_after == pytest.approx(time.time() + 3600, abs=10)
    assert len(told.serial) == 32


async def test_other_roots_bring_a_new_certificate_with_a_new_key_at_once(office: Office, tmp_path: Path) -> None:
    certificates = Certificates()
    keeper = keeper_of(certificates, rng=Random(1))
    office.is_known.set()
    async with keeping(keeper, office):
        await until(lambda: keeper.is_held, "there is one")
        context = certificates.client_context((str(ID),))
        keeper.trust(office.roots())
        assert certificates.client_context((str(ID),)) is context, "the same roots change nothing"
        other = Authority.open(tmp_path / "other", DOMAIN, now=time.time(), audit=lambda _: None)
        both = msgspec.structs.replace(office.roots(), roots=office.roots().roots + other.bundle.pem)
        keeper.trust(both)
        assert certificates.client_context((str(ID),)) is not context, "who trusts more has another context"
        await until(lambda: len(office.asked) == 2, "another one is asked for")
    assert office.asked[0].csr != office.asked[1].csr


async def test_a_refusal_is_said_and_asked_again(office: Office) -> None:
    keeper = keeper_of(Certificates(), rng=Random(1))
    office.why_not = "this machine may not run orders"
    office.is_known.set()
    async with keeping(keeper, office):
        await until(lambda: keeper.error, "it is refused")
        assert "may not run orders" in keeper.report(ORDERS)[0].error
        office.why_not = ""
        await until(lambda: keeper.is_held, "it is asked again")
    assert keeper.error == ""


async def test_what_has_ended_is_withdrawn_and_replaced_when_somebody_signs_again(
    office: Office, tmp_path: Path
) -> None:
    folder = Folder(tmp_path / "kept")
    key = keys.generate()
    request = SignRequest(proxy="p", workload=ORDERS, csr=keys.signing_request(key))
    reply = await office.sign(request)
    late = Kept(
        chain=reply.chain,
        key=keys.private_pem(key).reveal().decode(),
        obtained_at=time.time() - 3599.0,
        lifetime=3600.0,
        not_after=time.time() + 3600.0,
        bundle=office.roots(),
    )
    folder.keep_certificate(late)
    certificates = Certificates()
    keeper = keeper_of(certificates, rng=Random(1), folder=folder)
    keeper.restore(folder.certificate())
    assert keeper.is_held
    async with keeping(keeper, office):
        await until(lambda: not keeper.is_held, "it has ended")
        with pytest.raises(NotReadyError):
            certificates.client_context((str(ID),))
        with pytest.raises(NotReadyError):
            certificates.server_context()
        office.is_known.set()
        await until(lambda: keeper.is_held, "there is another")
    assert certificates.spiffe_id == str(ID)


async def test_what_is_kept_is_ours_alone_and_what_was_altered_is_not_believed(office: Office, tmp_path: Path) -> None:
    folder = Folder(tmp_path / "kept")
    keeper = keeper_of(Certificates(), rng=Random(1), folder=folder)
    office.is_known.set()
    async with keeping(keeper, office):
        await until(folder.certificate, "it is kept")
    [path] = list((tmp_path / "kept").iterdir())
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert "PRIVATE" not in repr(folder.certificate())
    again = keeper_of(Certificates(), rng=Random(1), folder=folder)
    again.restore(folder.certificate())
    assert again.is_held
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    altered = keeper_of(Certificates(), rng=Random(1), folder=folder)
    altered.restore(folder.certificate())
    assert not altered.is_held
