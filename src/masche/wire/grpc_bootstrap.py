"""What a program needs to know to use gRPC's own xDS client and server with us: a file, or a variable, of JSON.

Decided from who the program is and where its files are; it holds no secret itself. Invariant: gRPC finds its
certificate only in files whose folder the bootstrap names, and asks for a server's Listener by the name that we give.
"""

import json
from pathlib import Path
from typing import Any

SERVER_LISTENER = "grpc/server?xds.resource.listening_address=%s"
"""The name of a server's Listener, with its address in place of ``%s`` (gRFC A36)."""

CERTIFICATE, KEY, ROOTS = "certificate.pem", "key.pem", "roots.pem"
"""The files of a folder of certificates."""

REFRESH_SECONDS = 5
"""How often gRPC looks whether the files changed."""

INSTANCE = "default"
"""What clusters and Listeners call the source of certificates (gRFC A29)."""


def bootstrap(*, node_id: str, cluster: str, zone: str, server: str, certificates: Path) -> bytes:
    """Return the bootstrap of one program.

    ``node_id`` is the id under which it is registered, ``cluster`` what it belongs to (a service), ``server`` the
    gRPC name of whom to ask, on a Unix socket (``unix:/path``), and ``certificates`` the folder of its files.
    """
    body: dict[str, Any] = {
        "xds_servers": [
            {"server_uri": server, "channel_creds": [{"type": "insecure"}], "server_features": ["xds_v3"]},
        ],
        "node": {"id": node_id, "cluster": cluster, "locality": {"zone": zone}},
        "server_listener_resource_name_template": SERVER_LISTENER,
        "client_default_listener_resource_name_template": "%s",
        "certificate_providers": {
            INSTANCE: {
                "plugin_name": "file_watcher",
                "config": {
                    "certificate_file": str(certificates / CERTIFICATE),
                    "private_key_file": str(certificates / KEY),
                    "ca_certificate_file": str(certificates / ROOTS),
                    "refresh_interval": f"{REFRESH_SECONDS}s",
                },
            }
        },
    }
    return json.dumps(body, indent=1).encode()
