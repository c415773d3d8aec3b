"""A fork begins afresh in the child, and the parent goes on; also while calls are made, and more than once."""

from pathlib import Path

from e2e.waiting import until
from library.life.mesh import Mesh

WAYS = """
import asyncio, multiprocessing, threading

def stock():
    import socket
    return socket.create_server(("127.0.0.1", 0))

def me(r):
    certificate = facade().identity.server_context()
    return r.workload, r.proxy, r.process, facade().identity.spiffe_id

def child():
    r = resident()
    assert facade() is r.facade
    r.wait_ready()
    said("child", *me(r), os.getpid())
    known = facade().knowledge.want("forkstock").result(10)
    said("child knows", len(known.destinations))
    facade().recorder.called(Called(cluster="outbound/default/forkstock/80", rule="", status=200, seconds=0.01))

"""

STOCK = """
import socket
listening = socket.create_server(("127.0.0.1", 0))
r = configure()
r.serve(listening.getsockname()[1], probe="none")
r.wait_ready()
said("serving")
heard("end")
"""


def with_stock(mesh: Mesh) -> None:
    if not mesh.proxies("forkstock"):
        mesh.script(STOCK, MASCHE_SERVICE="forkstock").line("serving")


def test_a_child_of_os_fork_is_another_workload_with_another_certificate(mesh: Mesh) -> None:
    with_stock(mesh)
    forking = """
r = configure()
r.wait_ready()
facade().knowledge.want("forkstock").result(10)
said("parent", *me(r))
children = []
for _ in range(2):
    pid = os.fork()
    if not pid:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        child()
        signal.pause()
    children.append(pid)
known = facade().knowledge.known("forkstock")
said("parent knows", known is not None)
r.wait_ready()
deadline = time.monotonic() + 10
while not r.is_connected and time.monotonic() < deadline:
    time.sleep(0.01)
said("parent after", r.is_connected, *me(r))
heard("end")
for each in children:
    os.kill(each, signal.SIGTERM)
    said("ended", os.waitpid(each, 0)[1])
"""
    script = mesh.script(WAYS + forking, MASCHE_SERVICE_ACCOUNT="forking")
    workload, proxy, process, identity = script.line("parent ").split()
    assert script.line("parent knows") == "True", "what the parent knew it knows"
    assert script.line("parent after").split() == ["True", workload, proxy, process, identity]
    until(lambda: len([line for line in script.lines if line.startswith("child knows")]) == 2, f"{script.errors}")
    children = [line.split()[1:] for line in script.lines if line.startswith("child default")]
    assert len({workload, *(each[0] for each in children)}) == 3
    assert len({proxy, *(each[1] for each in children)}) == 3
    assert len({process, *(each[2] for each in children)}) == 3
    assert {each[3] for each in children} == {identity}
    seen = until(lambda: len({each.workload for each in mesh.proxies("forking")}) == 3, "all three are seen")
    assert seen
    script.tell("end")
    assert script.end() == 0, script.errors
    assert [line for line in script.lines if line.startswith("ended")] == ["ended 0"] * 2
    assert script.errors == []
    until(lambda: not mesh.proxies("forking"), "all have left in order")


def test_children_of_multiprocessing_live_and_leave_in_order(mesh: Mesh) -> None:
    with_stock(mesh)
    forking = """
r = configure()
r.wait_ready()
said("parent", *me(r))
context = multiprocessing.get_context("fork")
children = [context.Process(target=child) for _ in range(3)]
for each in children:
    each.start()
for each in children:
    each.join()
    said("ended", each.exitcode)
r.wait_ready()
said("parent after", *me(r))
"""
    script = mesh.script(WAYS + forking, MASCHE_SERVICE_ACCOUNT="working")
    assert script.line("parent ") == script.line("parent after")
    assert script.end() == 0
    assert [line for line in script.lines if line.startswith("ended")] == ["ended 0"] * 3, script.errors
    assert script.errors == []
    assert mesh.proxies("working") == []
    until(
        lambda: [each for each in mesh.api.edges(window=60).edges if each.source == "default/working"],
        "what they called is counted",
    )


def test_a_child_forked_before_anything_was_called_starts_by_itself(mesh: Mesh) -> None:
    with_stock(mesh)
    forking = """
configure()
pid = os.fork()
if not pid:
    child()
    sys.exit(0)
said("ended", os.waitpid(pid, 0)[1])
said("parent", resident().workload or "nobody")
"""
    script = mesh.script(WAYS + forking, MASCHE_SERVICE_ACCOUNT="early")
    assert script.line("ended") == "0"
    assert script.line("parent") == "nobody", "nothing was started in the parent"
    assert script.end() == 0


def test_a_fork_in_the_middle_of_calls_of_other_threads_hurts_nobody(mesh: Mesh) -> None:
    with_stock(mesh)
    forking = """
r = configure()
r.wait_ready()
failures, looks, is_over = [], 0, False

def look():
    global looks
    while not is_over:
        try:
            facade().knowledge.want("forkstock").result(10)
            facade().identity.client_context(("spiffe://mesh.local/ns/default/sa/forkstock",))
            looks += 1
        except Exception as error:
            failures.append(repr(error))
        time.sleep(0.001)

threads = [threading.Thread(target=look) for _ in range(4)]
for each in threads:
    each.start()
for _ in range(5):
    pid = os.fork()
    if not pid:
        resident().wait_ready()
        known = facade().knowledge.want("forkstock").result(10)
        os._exit(0 if known.destinations else 4)
    said("ended", os.waitpid(pid, 0)[1])
is_over = True
for each in threads:
    each.join()
said("failures", failures)
said("looks", looks > 50)
"""
    script = mesh.script(WAYS + forking, MASCHE_SERVICE_ACCOUNT="busy")
    assert script.line("failures", within=60) == "[]"
    assert script.line("looks") == "True"
    assert [line for line in script.lines if line.startswith("ended")] == ["ended 0"] * 5
    assert script.end() == 0


def test_a_fork_within_an_event_loop_takes_that_loop_only_a_moment(mesh: Mesh) -> None:
    forking = """
async def main():
    r = configure()
    await asyncio.to_thread(r.wait_ready)
    began = time.perf_counter()
    pid = os.fork()
    if not pid:
        os._exit(0)
    said("took", time.perf_counter() - began)
    os.waitpid(pid, 0)

asyncio.run(main())
"""
    script = mesh.script(WAYS + forking, MASCHE_SERVICE_ACCOUNT="looping")
    assert float(script.line("took")) < 1.0
    assert script.end() == 0
    assert script.errors == []


def test_a_fork_on_a_machine_that_joined_is_the_same_over_mutual_tls(mesh: Mesh, tmp_path: Path) -> None:
    with_stock(mesh)
    forking = """
r = configure()
r.wait_ready()
facade().knowledge.want("forkstock").result(10)
for _ in range(2):
    pid = os.fork()
    if not pid:
        child()
        sys.exit(0)
    said("ended", os.waitpid(pid, 0)[1])
deadline = time.monotonic() + 10
while not r.is_connected and time.monotonic() < deadline:
    time.sleep(0.01)
said("connected", r.is_connected)
"""
    token = str(mesh.token(tmp_path))
    script = mesh.script(
        WAYS + forking, data=tmp_path / "joined", MASCHE_SERVICE_ACCOUNT="abroad", MASCHE_TOKEN_FILE=token
    )
    assert script.line("connected", within=60) == "True"
    assert [line for line in script.lines if line.startswith("ended")] == ["ended 0"] * 2, script.errors
    assert script.end() == 0
    assert script.errors == []
