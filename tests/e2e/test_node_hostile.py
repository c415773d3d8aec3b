"""An ordinary user in a captured namespace tries to get at something of another workload or of the machine. C14, D7.

What reaches a server of the machine's that must not be reached is told from what fails for want of a server: each such
server is there, and answers from outside the namespace.
"""

import json
import os
import secrets
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from e2e.captured import SYSTEM_PYTHON, greeter, tried_by_an_ordinary_user
from e2e.conftest import living
from e2e.mesh import ON_THE_NODE, SERVERS, Instance, Mesh, service
from masche.agent.capture.names import INNER, names_of
from masche.agent.capture.ranges import GATEWAY
from masche.agent.folders import Folders
from masche.compiler.addresses import virtual_addresses
from masche.model.refs import Name

pytestmark = [pytest.mark.root, pytest.mark.timeout(240)]

AS_NOBODY = (*ON_THE_NODE, "--user", "nobody")
VAULT = service("vault", namespace="bank").replace(
    "namespace: bank}", 'namespace: bank, annotations: {"masche.dev/export-to": "."}}'
)
ALONE = ("169.254.77.77", "100.100.100.200", "168.63.129.16", "fd00:ec2::254", "fd20:ce::254")
"""Given to this machine for the test: what its cloud would say there is meant for it alone."""

TRY = """
import ctypes, json, os, socket, subprocess, sys

libc = ctypes.CDLL(None, use_errno=True)

def tried(what):
    try:
        found = what()
    except OSError as error:
        return type(error).__name__
    return found.decode(errors="replace") if isinstance(found, bytes) else "done"

def checked(result):
    if result < 0:
        raise OSError(ctypes.get_errno(), "refused")

def family_of(address):
    return socket.AF_INET6 if ":" in address else socket.AF_INET

def told(address, port, say=b"", kind=socket.SOCK_STREAM, protocol=0):
    with socket.socket(family_of(address), kind, protocol) as one:
        one.settimeout(2)
        one.connect(socket.getaddrinfo(address, port)[0][4])
        one.sendall(say) if say else None
        return one.recv(4096)
"""


def tried(instance: Instance, script: str, **given: Any) -> dict[str, str]:
    """What each attempt of a script came to: the name of an error, "done", or what was said."""
    text = f"{TRY}\ngiven = json.loads(sys.argv[1])\nfound = {{}}\n{script}\nprint(json.dumps(found))\n"
    return tried_by_an_ordinary_user(instance, text, json.dumps(given))


@pytest.fixture(scope="module")
def mesh() -> Iterator[Mesh]:
    with tempfile.TemporaryDirectory(prefix="masche-hostile-") as folder, living(Path(folder)) as one:
        one.folder.chmod(0o1777)
        one.apply(service("orders") + service("web") + VAULT)
        yield one


@pytest.fixture(scope="module")
def instances(mesh: Mesh) -> dict[str, Instance]:
    copy = mesh.folder / "app.py"
    copy.write_bytes((SERVERS / "app.py").read_bytes())
    copy.chmod(0o644)
    app = (SYSTEM_PYTHON, str(copy))
    found = {
        "web": mesh.run("web", app, options=AS_NOBODY),
        "orders": mesh.run("orders", app, options=AS_NOBODY, is_recorded=True),
        "vault": mesh.run("vault", app, namespace="bank", options=AS_NOBODY, is_recorded=True),
    }
    mesh.await_ready(*found.values())
    return found


@contextmanager
def addressed(*addresses: str) -> Iterator[None]:
    """Give this machine more addresses for a while."""
    with ExitStack() as given:
        for each in addresses:
            length = 128 if ":" in each else 32
            words = [f"{each}/{length}", "dev", "lo"]
            subprocess.run(["ip", "addr", "add", *words], check=True)
            given.callback(subprocess.run, ["ip", "addr", "del", *words], check=True)
        yield


def gateway_of(instance: Instance) -> str:
    return ".".join((*instance.seat.address.split(".")[:2], "0", str(GATEWAY)))


CONNECT = """
for address, port in given["places"]:
    found[address] = tried(lambda: told(address, port))
"""


def test_what_is_given_to_the_machine_alone_is_not_reached_from_a_workload(instances: dict[str, Instance]) -> None:
    web = instances["web"]
    bridge = names_of(web.mesh.data).bridge
    link_local = f"fe80::77:{secrets.randbelow(9000) + 1000}"
    subprocess.run(["ip", "addr", "add", f"{link_local}/64", "dev", bridge, "nodad"], check=True)
    with addressed(*ALONE), ExitStack() as servers:
        places = [
            (each, servers.enter_context(greeter(each, "inside"))) for each in ("127.0.0.1", *ALONE, gateway_of(web))
        ]
        places.append(("::1", servers.enter_context(greeter("::1", "inside"))))
        everywhere = servers.enter_context(greeter("::", "inside"))
        places.append((f"{link_local}%{INNER}", everywhere))
        for address, port in places[:-1]:
            with socket.create_connection((address, port), timeout=5) as here:
                assert here.recv(100) == b"hello from inside\n", "the control does not answer"
        found = tried(web, CONNECT, places=places)
    assert found.pop(gateway_of(web)) == "hello from inside\n", "nothing passes at all"
    assert len(found) == len(places) - 1
    assert not any("hello" in said for said in found.values()), found


WITHOUT_TCP = """
def sent(address, kind, protocol=0, port=443):
    with socket.socket(family_of(address), kind, protocol) as one:
        one.sendto(b"hello", (address, port))

for address in given["addresses"]:
    found[f"UDP to {address}"] = tried(lambda: sent(address, socket.SOCK_DGRAM))
    found[f"ping of {address}"] = tried(lambda: sent(address, socket.SOCK_DGRAM, 58 if ":" in address else 1))
    found[f"UDP-Lite to {address}"] = tried(lambda: sent(address, socket.SOCK_DGRAM, 136))
    found[f"SCTP to {address}"] = tried(lambda: told(address, 80, kind=socket.SOCK_STREAM, protocol=132))
    found[f"raw words to {address}"] = tried(lambda: sent(address, socket.SOCK_RAW, 253, 0))
found["frames"] = tried(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW))

def marked(option, value):
    with socket.socket() as one:
        one.setsockopt(*option, value)

found["a mark"] = tried(lambda: marked((socket.SOL_SOCKET, 36), 1))
found["a transparent socket"] = tried(lambda: marked((socket.SOL_IP, 19), 1))

def bound():
    with socket.socket(type=socket.SOCK_DGRAM) as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"eth0")
        one.sendto(b"hello", (given["addresses"][0], 443))

found["UDP bound to the link"] = tried(bound)
"""


def test_nothing_but_tcp_leaves_by_whatever_socket(instances: dict[str, Instance]) -> None:
    """Not to the machine, another workload, the world or everybody; nor does an option help that needs privileges."""
    web, orders = instances["web"], instances["orders"]
    addresses = [gateway_of(web), orders.seat.address, "192.0.2.1", "224.0.0.251", "2001:db8::1", f"ff02::1%{INNER}"]
    found = tried(web, WITHOUT_TCP, addresses=addresses)
    assert len(found) == 5 * len(addresses) + 4
    assert "done" not in found.values(), {what: how for what, how in found.items() if how == "done"}


NEIGHBOUR = """
for port in given["ports"]:
    for address in given["addresses"]:
        request = b"GET /around HTTP/1.1\\r\\nhost: orders\\r\\n\\r\\n"
        found[f"{address}:{port}"] = tried(lambda: told(address, port, request))
        found[f"{address}:{port}/udp"] = tried(lambda: told(address, port, request, socket.SOCK_DGRAM))
"""


def test_another_workload_is_not_reached_by_its_own_address_nor_by_the_ports_of_its_proxy(
    instances: dict[str, Instance],
) -> None:
    """Its application's port, the proxy's, the mesh port without a certificate, and where names are told."""
    orders = instances["orders"]
    ports = [orders.app_port, orders.mesh_port, 15001, 15006, 15053, 53]
    found = tried(instances["web"], NEIGHBOUR, ports=ports, addresses=[orders.seat.address, gateway_of(orders)])
    answered = {what: how for what, how in found.items() if "Error" not in how and how not in {"", "timeout"}}
    names = {f"{gateway_of(orders)}:53", f"{orders.seat.address}:53"}  # its own, as all questions are
    assert not {what for what in answered if what.partition("/")[0] not in names}, answered
    assert b"/around" not in orders.received


ELSEWHERE = """
def asked(target, method="GET", host="vault.bank"):
    where = f"{given['vault']}:80"
    said = [f"{method} {target} HTTP/1.1", f"host: {host}", f"x-masche-destination: {where}", "connection: close"]
    head = "\\r\\n".join([*said, "", ""])
    return told(given["orders"], 80, head.encode()).split(b"\\r\\n\\r\\n")[0]

found["absolute"] = tried(lambda: asked("http://vault.bank/within"))
found["by host"] = tried(lambda: asked("/within"))
found["connect"] = tried(lambda: asked("vault.bank:80", "CONNECT"))
found["straight"] = tried(lambda: told(given["vault"], 80, b"GET / HTTP/1.1\\r\\nhost: vault.bank\\r\\n\\r\\n"))
for name in "vault", "vault.bank", "vault.bank.svc", "vault.bank.mesh", "vault.bank.svc.cluster.local":
    found[name] = tried(lambda: socket.gethostbyname(name).encode())
"""


def test_a_service_that_is_not_for_it_is_reached_by_no_name_no_address_and_no_word(
    mesh: Mesh, instances: dict[str, Instance]
) -> None:
    services = {Name("shop", "orders"): None, Name("shop", "web"): None, Name("bank", "vault"): None}
    made = {str(name): each[0] for name, each in virtual_addresses(services).items()}  # of the names alone
    vault = instances["vault"]
    found = tried(instances["web"], ELSEWHERE, orders=made["shop/orders"], vault=made["bank/vault"])
    assert "server-name: orders-1" in found["by host"], "the destination decides, not the Host header"
    assert "200" not in found["connect"]
    assert found["straight"].startswith("HTTP/1.1 404"), found["straight"]
    assert "vault-1" not in json.dumps(found)
    assert {how for what, how in found.items() if what.startswith("vault")} == {"gaierror"}, found
    assert vault.received.count(b"within") == 0


PRIVILEGES = """
def abstract(name):
    with socket.socket(socket.AF_UNIX) as one:
        one.connect(name)

def taken(port, address, kind):
    with socket.socket(family_of(address), kind) as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        one.bind((address, port))

def entered(path, kind=0x40000000):
    with open(path) as file:
        checked(libc.setns(file.fileno(), kind))

found["an abstract socket of the machine"] = tried(lambda: abstract("\\0" + given["abstract"]))
for port, address in (15001, "0.0.0.0"), (15006, "0.0.0.0"), (15053, "127.0.0.1"), (15053, "::1"):
    found[f"port {port} of {address}"] = tried(lambda: taken(port, address, socket.SOCK_STREAM))
found["where names are asked"] = tried(lambda: taken(15053, "127.0.0.1", socket.SOCK_DGRAM))
for path in given["paths"]:
    found[path] = tried(lambda: os.listdir(path) if path.endswith(("fd", "root/")) else open(path).read())
found["the machine"] = tried(lambda: entered("/proc/1/ns/net"))
found["a neighbour"] = tried(lambda: entered(given["neighbour"]))
for words in "ip route add 192.0.2.0/24 dev eth0", "nft flush ruleset", "ip link set eth0 down":
    done = subprocess.run(words.split(), capture_output=True, text=True)
    found[words] = "PermissionError" if "not permitted" in done.stderr else done.stderr or "done"
libc.unshare(0x10000000)  # a user namespace, in which it is root, has no power over this network
found["the machine as somebody else"] = tried(lambda: entered("/proc/1/ns/net"))
found["a neighbour as somebody else"] = tried(lambda: entered(given["neighbour"]))
done = subprocess.run(["nft", "flush", "ruleset"], capture_output=True, text=True)
found["tables as somebody else"] = "PermissionError" if "not permitted" in done.stderr else done.stderr or "done"
"""


def test_no_socket_port_process_or_namespace_of_others_is_got_at(mesh: Mesh, instances: dict[str, Instance]) -> None:
    """Abstract sockets of the machine, the ports of its own proxy, /proc of the agent, of Envoy and of both runners."""
    web, orders, folders = instances["web"], instances["orders"], Folders(mesh.data)
    agent = mesh.agent()
    assert agent
    processes = (agent.pid, web.seat.envoy_pid, orders.process.pid, web.process.pid)
    paths = [f"/proc/{pid}/{what}" for pid in processes for what in ("environ", "mem", "maps", "fd", "root/", "ns/net")]
    paths += map(str, (folders.agent, folders.node / "bootstrap.json", folders.hosts))
    name = f"masche-test-{os.getpid()}"
    with closing(socket.socket(socket.AF_UNIX)) as listener:
        listener.bind("\0" + name)
        listener.listen()
        found = tried(web, PRIVILEGES, abstract=name, paths=paths, neighbour=orders.netns)
    refused = {"PermissionError", "ConnectionRefusedError", "OSError"}
    assert len(found) > 30
    assert set(found.values()) <= refused, {what: how for what, how in found.items() if how not in refused}
    assert_still_captured(web)


def assert_still_captured(instance: Instance) -> None:
    """Its table is whole and it calls as itself."""
    shown = instance.within(
        lambda: subprocess.run(["nft", "list", "tables"], capture_output=True, text=True, check=True)
    )
    assert "inet masche" in shown.stdout
    (seen,) = instance.call("orders").seen_header("x-forwarded-client-cert")
    assert f"URI=spiffe://mesh.local/ns/shop/sa/{instance.service}" in seen
