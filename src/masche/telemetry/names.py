"""The names of what is measured, in one place.

Those that Envoy itself counts are written by the encoder, which stands below this package, and are only repeated here.
"""

from masche.wire import stats as mesh

MESH_REQUESTS = mesh.PREFIX + mesh.REQUESTS
MESH_INSTANCE_REQUESTS = mesh.PREFIX + mesh.INSTANCE_REQUESTS
MESH_DENIED = mesh.PREFIX + mesh.DENIED
MESH_REQUEST_US = mesh.PREFIX + mesh.REQUEST_US
MESH_INSTANCE_US = mesh.PREFIX + mesh.INSTANCE_US
MESH_CONNECTIONS = mesh.PREFIX + mesh.CONNECTIONS
MESH_RECEIVED_BYTES = mesh.PREFIX + mesh.RECEIVED_BYTES
MESH_SENT_BYTES = mesh.PREFIX + mesh.SENT_BYTES
MESH_CONNECTION_MS = mesh.PREFIX + mesh.CONNECTION_MS
"""Families as ``/stats/prometheus`` of Envoy shows them; tags and meanings are described in ``masche.wire.stats``."""
