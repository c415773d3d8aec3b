"""What was decided about one call, and in words that a person can act on."""

from masche.model.frozen import frozen


@frozen
class Verdict:
    """May it pass? ``rule`` names what decided (``shop/allow-web rules[0]``), empty when nothing in particular did.

    ``status`` is the answer when it may not: 403 by policy, 400 for a malformed request; 0 when it may.
    """

    allowed: bool
    rule: str
    sentence: str
    status: int = 0

    @classmethod
    def allow(cls, rule: str, sentence: str) -> "Verdict":
        """It may pass."""
        return cls(allowed=True, rule=rule, sentence=sentence)

    @classmethod
    def refuse(cls, rule: str, sentence: str, *, status: int = 403) -> "Verdict":
        """It may not."""
        return cls(allowed=False, rule=rule, sentence=sentence, status=status)
