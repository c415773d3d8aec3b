import asyncio
import json
import signal
import stat
import time

import msgspec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from agent.plane import reference
from agent.world import World, fetch, free_port, until
from masche.agent import admin
from masche.identity.authority import Authority
from masche.identity.keys import Secret, load_private


async def test_no_byte_that_the_agent_sends_is_of_a_private_key(machine: World) -> None:
    machine.plane.services = (reference("orders"),)
    runner = await machine.run("orders", port=free_port())
    await machine.ready("orders")
    found = list(machine.folders.seats.glob("*/identity.json"))
    assert len(found) == 1
    first = found[0].read_bytes()
    await _renew(machine)
    await _renew(machine)
    kept = [first, found[0].read_bytes()]
    runner.process.send_signal(signal.SIGTERM)
    await runner.process.wait()
    sent = b"".join(machine.plane.received)
    assert len(sent) > 5000
    assert b"PRIVATE KEY" not in sent
    for content in kept:
        for form in _forms(content):
            assert form not in sent
            assert form[: len(form) // 2] not in sent


def _forms(identity: bytes) -> list[bytes]:
    """The ways in which a key could be written: its PEM body, DER, and the bare number, binary and in hex."""
    pem = msgspec.json.decode(identity)["key"].encode()
    key = load_private(Secret(pem))
    number = key.private_numbers().private_value.to_bytes(32, "big")
    der = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    return [b"".join(pem.splitlines()[1:-1]), pem.splitlines()[1], der, number, number.hex().encode()]


async def test_what_is_kept_is_for_this_user_alone(machine: World) -> None:
    machine.plane.services = (reference("orders"),)
    await machine.run("orders", port=free_port())
    await machine.ready("orders")
    for path in machine.folders.agent.rglob("*"):
        mode = stat.S_IMODE(path.lstat().st_mode)
        assert mode & 0o077 == 0, f"{path} {mode:o}"


async def test_certificates_are_renewed_under_calls_without_a_failure(machine: World) -> None:
    machine.plane.services = (reference("orders"),)
    await machine.run("orders", port=free_port())
    await machine.ready("orders")
    port = machine.plane.state_of("orders").occupants[0].seat.local_ports[0].port
    url = f"http://127.0.0.1:{port}"

    async def answers() -> bool:
        try:
            return (await fetch(url))[0] == 200
        except OSError:
            return False

    await until(answers)
    failed = calls = renewals = 0
    while renewals < 5 or calls < 20:
        renewals += 1
        renewing = asyncio.create_task(_renew(machine))
        while not renewing.done():
            calls += 1
            failed += not await answers()
    assert failed == 0


async def _renew(machine: World) -> None:
    """Add a root, which makes every workload ask for a certificate, until Envoy shows one that it did not have."""
    roots = machine.plane.roots()
    folder = machine.data / "another authority"
    other = Authority.open(folder, roots.trust_domain, now=time.time(), audit=lambda _: None).bundle.pem
    before = await _serials(machine)
    machine.plane.say(msgspec.structs.replace(roots, roots=roots.roots + other))

    async def is_new() -> bool:
        return bool(await _serials(machine) - before)

    await until(is_new, what="Envoy has the new certificate")


async def _serials(machine: World) -> set[str]:
    """The serial numbers of its own chain."""
    [socket] = machine.folders.sockets.glob("*.admin")
    certificates = json.loads((await admin.ask(socket, "/certs")).body)["certificates"]
    return {one["serial_number"] for each in certificates for one in each["cert_chain"]}
