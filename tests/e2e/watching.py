"""What an Envoy holds, watched over time: nothing may shrink while a control plane is away or comes back."""

import http.client
import threading
from dataclasses import dataclass, field

from e2e.calling import Admin

SIZES = r"membership_total$|cluster_manager.active_clusters|listener_manager.total_listeners_active"
CHANGES = (
    r"listener_manager.listener_(modified|removed|in_place_updated|stopped)|cluster_manager.cluster_(modified|removed)"
)


@dataclass(eq=False)
class Watch:
    """Asks an Envoy every few milliseconds, while the block runs, how much it holds."""

    admin: Admin
    first: dict[str, int] = field(default_factory=dict[str, int])
    least: dict[str, int] = field(default_factory=dict[str, int])
    changes: dict[str, int] = field(default_factory=dict[str, int])
    looks: int = 0
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def __enter__(self) -> "Watch":
        self.first, self.changes = self.admin.stats(SIZES), self.admin.stats(CHANGES)
        assert any(name.endswith("membership_total") for name in self.first)
        assert len(self.changes) == 6
        self.least = dict(self.first)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if self._thread:
            self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(0.05):
            try:
                found = self.admin.stats(SIZES)
            except (OSError, http.client.HTTPException):
                continue
            self.looks += 1
            for name in self.first:
                self.least[name] = min(self.least[name], found.get(name, 0))

    def assert_nothing_shrank(self) -> None:
        """It never held less than at first."""
        assert self.looks > 0
        assert self.least == self.first

    def assert_nothing_moved(self) -> None:
        """Nor was any listener or cluster changed, replaced or removed."""
        self.assert_nothing_shrank()
        assert self.admin.stats(CHANGES) == self.changes
