"""Secrets that are stored come back to nobody who asks about them."""

from base64 import b64encode

from control.plant import Plant
from masche.api.messages import Document, Verb

FIRST, SECOND = b64encode(b"the first key of the shop").decode(), b64encode(b"the second key of the shop").decode()


def _secret(key: str) -> list[Document]:
    text = f"""
apiVersion: v1
kind: Secret
metadata: {{name: web, namespace: shop}}
type: kubernetes.io/tls
data: {{tls.crt: {b64encode(b"a certificate").decode()}, tls.key: {key}}}
"""
    return [Document(file="secret.yaml", text=text)]


async def test_what_applying_a_secret_would_change_is_told_without_its_values(mesh: Plant) -> None:
    await mesh.plane.apply(_secret(FIRST), dry_run=False)
    same = await mesh.plane.diff(_secret(FIRST))
    assert same.differences == ()
    [found] = (await mesh.plane.diff(_secret(SECOND))).differences
    assert found.verb is Verb.CONFIGURED
    said = "\n".join(found.lines)
    assert said.count("tls.key: Secret(") == 2, said
    assert FIRST not in said
    assert SECOND not in said
