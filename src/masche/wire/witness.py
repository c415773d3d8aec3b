"""Where a workload of a shared proxy is told as whom its calls arrive: what the encoder, the agent and ``check`` share.

The address is captured like a virtual one and is no Service's. Behind it the proxy calls itself by mutual TLS, with the
certificate that the workload's calls show everywhere, and answers which one that was.
"""

ADDRESS = "240.64.0.0"
"""The first of the range of virtual addresses, which no Service is given."""

PORT = 80

PEER_HEADER = "x-masche-peer"
"""The header of the answer with the SPIFFE ID that the certificate showed."""

SECRET = "witness"  # noqa: S105 - the name of a secret, not one
"""The certificate of the other end: made by the agent for its own Envoy, proof of nothing."""
