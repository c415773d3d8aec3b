"""``masche check --identities`` believes what calls show, and nothing else."""

from pathlib import Path

import pytest

from masche.agent import stopping
from masche.agent.local import Proof, Proved
from masche.api.access import Finding, Level
from masche.cli.checks import of_identities

ORDERS, CART = "spiffe://mesh.local/ns/shop/sa/orders", "spiffe://mesh.local/ns/shop/sa/cart"


def found(monkeypatch: pytest.MonkeyPatch, *proofs: Proof) -> Finding:
    monkeypatch.setattr(stopping, "prove", lambda _folders: Proved(proofs=proofs))
    return of_identities(Path("/nowhere"))


def test_calls_under_the_right_identities_are_well(monkeypatch: pytest.MonkeyPatch) -> None:
    finding = found(monkeypatch, Proof(workload="shop/orders-1", expected=ORDERS, found=ORDERS))
    assert (finding.level, finding.message) == (Level.OK, "1 asked")


def test_a_call_under_another_identity_is_an_error_and_says_whose(monkeypatch: pytest.MonkeyPatch) -> None:
    well = Proof(workload="shop/orders-1", expected=ORDERS, found=ORDERS)
    finding = found(monkeypatch, well, Proof(workload="shop/cart-1", expected=CART, found=ORDERS))
    assert (finding.level, finding.message) == (Level.ERROR, f"shop/cart-1 arrives as {ORDERS}")


def test_who_could_not_be_asked_is_no_proof_of_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    finding = found(monkeypatch, Proof(workload="shop/cart-1", expected=CART, error="no answer within 5 s"))
    assert (finding.level, finding.message) == (
        Level.WARNING,
        "shop/cart-1 could not be asked: no answer within 5 s",
    )


def test_without_an_agent_nobody_is_asked(tmp_path: Path) -> None:
    assert of_identities(tmp_path).level is Level.WARNING
