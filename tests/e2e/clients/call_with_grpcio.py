"""grpcio, which reads ``http_proxy`` by itself and opens a tunnel through it."""

import json
import os
import sys

import grpc

WAY = sys.argv[1]
TARGET = os.environ["GREETER_ADDR"] if WAY == "url" else "greeter:80"

with grpc.insecure_channel(TARGET) as channel:
    describe = channel.unary_unary("/tests.Greeter/Describe")
    converse = channel.stream_stream("/tests.Greeter/Converse")
    total = channel.stream_unary("/tests.Greeter/Total")
    count = channel.unary_stream("/tests.Greeter/Count")
    asked, call = describe.with_call(b"m" * 1_000_000, timeout=20, metadata=[("x-mine", "yes")])
    conversation = converse(iter([b"one", b"two", b"three"]), timeout=20)
    told = {
        "way": WAY,
        "get": json.loads(asked),
        "trailers": [[key, value] for key, value in call.trailing_metadata()],
        "conversation": [part.decode() for part in conversation],
        "total": int(total(iter([b"c" * 1_000] * 300), timeout=20)),
        "count": len(list(count(b"1000", timeout=20))),
    }
json.dump(told, sys.stdout)
