"""A job that has come and gone before anybody looks is seen all the same: what it called, and that it left in order."""

import sys

from e2e.mesh import APP, Mesh, service
from e2e.waiting import until

CALLS = """
import os, urllib.request
for _ in range(7):
    with urllib.request.urlopen(os.environ["WEB_URL"], timeout=10) as answer:
        print(answer.status, flush=True)
"""


def test_a_job_of_less_than_a_second_is_seen_in_top_and_leaves_without_a_warning(mesh: Mesh) -> None:
    mesh.apply(service("web"))
    mesh.await_ready(mesh.run("web", APP))
    seen = mesh.client.events(after=0, limit=1000).latest
    job = mesh.run("job", [sys.executable, "-c", CALLS], has_port=False)
    assert job.wait() == 0
    assert job.text.count("200") == 7

    def called() -> float:
        edges = mesh.client.edges(window=60.0).edges
        return sum(each.rate.requests_per_second * 60 for each in edges if each.source == "shop/job")

    until(lambda: round(called()) == 7, "all calls of the job are counted, once")
    left = until(
        lambda: [each for each in mesh.client.events(after=seen, limit=1000).events if each.kind == "stream-closed"],
        "the stream of the job has ended",
    )
    assert [each.severity for each in left if "job" in each.about] == ["info"]
