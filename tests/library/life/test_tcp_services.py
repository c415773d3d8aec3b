"""TCP between processes with the library, by a real control plane: servers, callers, policies, counts, leaving."""

from e2e.waiting import until
from library.life.mesh import Mesh, Script
from masche.api.messages import Document
from masche.api.traffic import Edge
from taken_ports import APPLICATIONS

SERVER = """
import asyncio
from masche.library import peer, tcp

async def handle(reader, writer):
    try:
        writer.write(f"hello {peer.current()}\\n".encode())  # it speaks first, as many servers do
        while line := await reader.readline():
            writer.write(line.upper())
    finally:
        said("gone")

async def main():
    async with await tcp.start_server(handle, PORT, host="127.0.0.1") as server:
        await asyncio.to_thread(resident().wait_ready)
        said("serving", resident().workload, *resident().created)
        await asyncio.to_thread(heard, "end")
        await server.close(grace=0.2)
    said("closed")

asyncio.run(main())
"""
CALLER = """
import asyncio
from masche.library import tcp

async def by_loop(name):
    reader, writer = await tcp.open(name, PORT)
    writer.write(b"abc\\n")
    greeting, answer = await reader.readline(), await reader.readline()
    writer.close()
    await writer.wait_closed()
    return greeting, answer

def by_thread(name):
    with tcp.connect(name, PORT, timeout=10) as connection, connection.makefile("rwb") as file:
        file.write(b"abc\\n")
        file.flush()
        return file.readline(), file.readline()

while (word := sys.stdin.readline().strip()) != "end":
    try:
        said(word, *asyncio.run(by_loop("db")), *by_thread("db.default.svc.cluster.local"))
    except OSError as error:
        said(word, "failed", type(error).__name__, error)
"""
POLICY = """
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: db, namespace: default}
spec:
  action: ALLOW
  selector: {matchLabels: {app: db}}
  rules: [{from: [{source: {principals: [mesh.local/ns/default/sa/friend]}}]}]
"""


def called(script: Script, word: str) -> str:
    script.tell(word)
    return script.line(word)


def test_tcp_is_served_and_called_by_names_of_the_mesh_and_policies_hold(mesh: Mesh) -> None:
    port = APPLICATIONS.free()
    given = f"PORT = {port}\n"
    server = mesh.script(given + SERVER, MASCHE_SERVICE="db")
    assert "default/db" in server.line("serving")
    friend = mesh.script(given + CALLER, MASCHE_SERVICE_ACCOUNT="friend")
    stranger = mesh.script(given + CALLER, MASCHE_SERVICE_ACCOUNT="stranger")
    hello = "b'hello spiffe://mesh.local/ns/default/sa/{}\\n' b'ABC\\n'"
    for name, script in (("friend", friend), ("stranger", stranger)):
        assert called(script, "first") == " ".join([hello.format(name)] * 2)
    mesh.api.apply([Document(file="policy.yaml", text=POLICY)])

    number = iter(range(1000))
    until(lambda: "hello" not in called(stranger, f"again{next(number)}-"), "the stranger is refused")
    assert called(friend, "second") == " ".join([hello.format("friend")] * 2)

    def edges() -> list[Edge]:
        found = [each for each in mesh.api.edges(window=60).edges if each.destination == "default/db"]
        return found if {each.source for each in found} >= {"default/friend", "default/stranger"} else []

    assert {each.port for each in until(edges, "both edges are seen") or []} == {port}
    friend.tell("end")
    server.tell("end")
    server.line("closed", within=30)
    assert (server.end(), friend.end()) == (0, 0), (server.errors, friend.errors)
