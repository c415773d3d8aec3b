"""A machine on which a workload has nothing but an address of its own. Run alone, as killed.py is."""

import asyncio
import socket
import subprocess
import sys
from pathlib import Path

from masche.agent.capture.apply import CaptureError
from masche.agent.capture.exclusions import Exclusions
from masche.agent.capture.host import Host
from masche.agent.capture.host_rules import Addressed
from masche.agent.capture.names import path_of
from masche.model.refs import Name

sys.path.insert(0, str(Path(__file__).parents[2]))

from agent.capture.lab import Listener, call

ORDERS, PAYMENT = Name("shop", "orders-1"), Name("shop", "payment-1")
BEYOND = "n3t-beyond"
OWN, ITS, FAR, VIRTUAL = "192.0.2.1", "192.0.2.77", "192.0.2.2", "240.64.0.7"
NETWORK = f"""link set lo up
link add near type veth peer name far
addr add {OWN}/24 dev near
addr add {ITS}/24 dev near
link set near up
route add default via {FAR}
netns add {BEYOND}
link set far netns {BEYOND}
"""
INSIDE = f"""link set lo up
addr add {FAR}/24 dev far
link set far up
"""
KNOWN = Addressed(
    address=ITS, outbound_port=20001, inbound_port=20002, dns_port=20003, exclusions=Exclusions(outbound_ports=(5432,))
)


def batch(lines: str, *inside: str) -> None:
    subprocess.run(["ip", *inside, "-batch", "-"], input=lines, text=True, check=True)


def from_its_address(address: str, port: int) -> str:
    """What answers a connection that is made from the workload's address."""
    with socket.socket() as connection:
        connection.settimeout(10)
        connection.bind((ITS, 0))
        try:
            connection.connect((address, port))
            return b"".join(iter(lambda: connection.recv(4096), b"")).decode()
        except OSError as error:
            return type(error).__name__


def question() -> str:
    """What becomes of a question for a name from the workload's address."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as mesh, socket.socket(type=socket.SOCK_DGRAM) as asking:
        mesh.bind(("127.0.0.1", KNOWN.dns_port))
        mesh.settimeout(10)
        asking.bind((ITS, 0))
        asking.sendto(b"orders?", (FAR, 53))
        return mesh.recv(512).decode()


def told(host: Host, address: str) -> str:
    wanted = Addressed(address=address, outbound_port=1, inbound_port=2, dns_port=3)
    try:
        asyncio.run(host.capture_address(PAYMENT, wanted, but=()))
    except CaptureError as error:
        return str(error)
    return ""


def main(folder: Path) -> None:
    batch(NETWORK)
    batch(INSIDE, "-n", BEYOND)
    host = Host(folder, file=folder / "hosts.json")
    asyncio.run(host.capture_address(ORDERS, KNOWN, but=()))
    far = path_of(BEYOND)
    with Listener(far, FAR, 80, "far"), Listener(far, FAR, 5432, "far"), Listener("", ITS, 8080, "application") as app:
        assert from_its_address(FAR, 80) == "ConnectionRefusedError"
        assert from_its_address(FAR, 5432) == f"far {FAR}:5432"
        assert call("", FAR, 80) == f"far {FAR}:80"
        assert call(far, ITS, 8080) == "ConnectionRefusedError"
        assert not app.peers
        with Listener("", "0.0.0.0", 20001, "proxy") as proxy, Listener("", "0.0.0.0", 20002, "inbound"):
            assert from_its_address(FAR, 80) == f"proxy {FAR}:80"
            assert from_its_address(VIRTUAL, 80) == f"proxy {VIRTUAL}:80"
            assert call(far, ITS, 8080) == f"inbound {ITS}:8080"
            assert not app.peers
            assert from_its_address(ITS, 8080).startswith("application ")
            proxy.peers.clear()
            for port in (20001, 20002):
                assert call(far, OWN, port) == "ConnectionRefusedError"
                assert call("", OWN, port) == "ConnectionRefusedError"
            assert not proxy.peers
        assert question() == "orders?"
    with socket.socket(type=socket.SOCK_DGRAM) as outlet:
        outlet.bind((ITS, 0))
        try:
            outlet.sendto(b"hello", (FAR, 4711))
        except PermissionError:
            pass
        else:
            raise AssertionError
    assert "belongs to shop/orders-1" in told(host, ITS)
    assert "own" in told(host, OWN)
    assert "no address of this machine" in told(host, "192.0.2.99")
    assert "nowhere beyond" in told(host, "127.0.0.5")
    assert "no IP address" in told(host, "there")
    asyncio.run(host.release(ORDERS))
    assert from_its_address(FAR, 80) == "ConnectionRefusedError"


if __name__ == "__main__":
    main(Path(sys.argv[1]))
