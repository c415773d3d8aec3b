"""A gRPC client that joins the mesh by itself, and finds its servers by xDS: no ``masche run`` and no proxy."""

import json
import sys

import grpc

from masche.library.grpc import channel_credentials

with grpc.secure_channel("xds:///orders:80", channel_credentials()) as channel:
    call = channel.unary_unary("/tests.Greeter/WhoAmI")
    for _ in sys.stdin:
        sys.stdout.write(json.dumps(json.loads(call(b"", timeout=10, wait_for_ready=True))) + "\n")
        sys.stdout.flush()
