"""What programs with the library do not carry out is said on the resource, and only where there are such."""

from grpc_meshes import a_mesh

from masche.compiler.view import statuses

MESH = """
apiVersion: v1
kind: Service
metadata: {name: db}
spec: {selector: {app: db}, ports: [{name: tcp-db, port: 5432}]}
---
apiVersion: v1
kind: Service
metadata: {name: orders}
spec: {selector: {app: orders}, ports: [{name: http, port: 80, targetPort: http}]}
"""


def program(name: str, *, dialect: str = "library", more: str = "") -> str:
    return f"""
---
apiVersion: masche.dev/v1
kind: Workload
metadata: {{name: {name}-1, labels: {{app: {name}}}}}
spec: {{address: 127.0.0.1, serviceAccount: {name}, placement: library, ports: [{{name: p, port: 5432}}]{more}}}
status: {{state: READY, dialect: {dialect}}}
"""


def said(text: str) -> list[tuple[str, str]]:
    found = [each for status in statuses(a_mesh(text)) for each in status.diagnostics]
    return [(each.where, each.why) for each in found if each.code == "ignored-by-library"]


def test_a_port_of_its_own_that_speaks_tcp_is_named() -> None:
    ((where, why),) = said(MESH + program("db"))
    assert where == "Service/shop/db spec.ports"
    assert why.startswith("programs that use the library (shop/db-1) ignore this: port 5432 speaks TCP")


def test_a_port_that_it_says_that_it_calls_is_named_and_one_that_it_merely_could_is_not() -> None:
    ((where, why),) = said(MESH + program("web", more=", dependencies: [db, orders]"))
    assert (where, why.endswith("the library sends HTTP alone")) == ("Service/shop/db spec.ports", True)
    assert said(MESH + program("web")) == []


def test_nothing_is_said_where_no_program_uses_the_library() -> None:
    assert said(MESH + program("db", dialect="envoy")) == []
