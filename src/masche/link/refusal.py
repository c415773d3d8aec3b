"""A "no" of the control plane's, as it is said on both sides of the link; what does the talking is elsewhere."""


class RefusedError(Exception):
    """A LinkService says no: ``why``, and ``fix`` says what to change. The caller sees both."""

    def __init__(self, why: str, *, fix: str = "") -> None:
        super().__init__(why)
        self.why = why
        self.fix = fix
