"""A gRPC client that finds its servers by xDS. Reads calls as JSON, one a line, and answers each with what came."""

import json
import sys
from concurrent.futures import ThreadPoolExecutor

import grpc
import grpc.experimental

CREDENTIALS = grpc.xds_channel_credentials()
channels = {}


def channel(target, *, is_fresh):
    if is_fresh and target in channels:
        channels.pop(target).close()
    if target not in channels:
        channels[target] = grpc.secure_channel(f"xds:///{target}", CREDENTIALS)
    return channels[target]


def once(call, asked):
    metadata = tuple(map(tuple, asked.get("metadata", ())))
    try:
        answer, made = call.with_call(
            asked.get("body", "").encode(), timeout=asked.get("timeout", 10), metadata=metadata,
            wait_for_ready=asked.get("wait", True),
        )  # fmt: skip
    except grpc.RpcError as error:
        return {
            "code": error.code().name,
            "details": error.details(),
            "trailers": dict(error.trailing_metadata() or ()),
        }
    return {"code": "OK", "body": answer.decode(), "peer": dict(made.trailing_metadata() or ()).get("served-by", "")}


def answers(asked):
    call = channel(asked["target"], is_fresh=asked.get("fresh", False)).unary_unary(
        asked.get("method", "/tests.Greeter/Echo")
    )
    if "times" not in asked:
        return once(call, asked)
    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(lambda _: once(call, asked), range(asked["times"])))


def main():
    for line in sys.stdin:
        sys.stdout.write(json.dumps(answers(json.loads(line))) + "\n")
        sys.stdout.flush()


main()
