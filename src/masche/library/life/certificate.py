"""The key and the certificate of this process: where its connections find them, and where a later process may.

They are in memory alone, or in a folder as well, if that is wished for. Invariant: a key leaves the process for that
folder only.
"""

from random import Random

from masche.identity.keys import Secret
from masche.library.core.ports import MeshError
from masche.library.core.tls import Certificates
from masche.library.life.memory import Folder
from masche.link.renewal import Kept, Place, Renewal, UnusableError


def keeper_of(certificates: Certificates, *, rng: Random, folder: Folder | None = None) -> Renewal:
    """Who keeps ``certificates`` in force, and in ``folder`` for a start without a control plane."""

    def show(kept: Kept) -> None:
        try:
            certificates.put(kept.chain, Secret(kept.key.encode()), kept.bundle.roots)
        except MeshError as error:
            raise UnusableError(str(error)) from error

    keep = folder.keep_certificate if folder else None
    return Renewal(Place(show=show, withdraw=certificates.withdraw, keep=keep), rng=rng)
