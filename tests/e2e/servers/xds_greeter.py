"""A gRPC server that learns by xDS whom it may serve. Says as JSON, one a line, whether it serves and who it is."""

import json
import os
import signal
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import grpc
import grpc.experimental

NAME = os.environ.get("NAME", "greeter")


def whoami(_request, context):
    """Who asked, as its certificate says, and who answers."""
    auth = {key: [value.decode() for value in values] for key, values in context.auth_context().items()}
    metadata = [[key, value] for key, value in context.invocation_metadata() if isinstance(value, str)]
    context.set_trailing_metadata((("served-by", NAME),))
    told = {"name": NAME, "peer": auth.get("peer_spiffe_id", []), "metadata": metadata}
    return json.dumps({**told, "certificate": "".join(auth.get("x509_pem_cert", []))}).encode()


def echo(request, context):
    context.set_trailing_metadata((("served-by", NAME),))
    return request


def fail(request, context):
    context.abort(getattr(grpc.StatusCode, request.decode()), "as you wished")


def hang(_request, context):
    """Until the caller gives up."""
    over = threading.Event()
    context.add_callback(over.set)
    over.wait()
    return b""


HANDLERS = {
    "WhoAmI": grpc.unary_unary_rpc_method_handler(whoami),
    "Echo": grpc.unary_unary_rpc_method_handler(echo),
    "Fail": grpc.unary_unary_rpc_method_handler(fail),
    "Hang": grpc.unary_unary_rpc_method_handler(hang),
}


def main():
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    server = grpc.server(ThreadPoolExecutor(16), xds=True)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("tests.Greeter", HANDLERS),))
    address = f"{os.environ['HOST']}:{os.environ['PORT']}"
    credentials = grpc.xds_server_credentials(grpc.insecure_server_credentials())
    server.add_secure_port(address, credentials)
    server.start()
    sys.stdout.write(json.dumps({"listens": address}) + "\n")
    sys.stdout.flush()
    stop.wait()
    server.stop(0.2).wait()


main()
