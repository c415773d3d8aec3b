"""An application that speaks HTTP/2 without TLS and nothing else: no upgrade, no HTTP/1.1."""

import asyncio
import hashlib
import json
import os
import signal

import h2.config
import h2.connection
import h2.events

NAME = os.environ.get("NAME", "h2c")


class Connection(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding="utf-8"))
        self.requests = {}
        self.h2.initiate_connection()
        transport.write(self.h2.data_to_send())

    def data_received(self, data):
        for event in self.h2.receive_data(data):
            match event:
                case h2.events.RequestReceived():
                    self.requests[event.stream_id] = (event.headers, hashlib.sha256(), 0)
                case h2.events.DataReceived():
                    headers, digest, length = self.requests[event.stream_id]
                    digest.update(event.data)
                    self.requests[event.stream_id] = (headers, digest, length + len(event.data))
                    self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                case h2.events.StreamEnded():
                    self.answer(event.stream_id, *self.requests.pop(event.stream_id))
                case _:
                    pass
        self.transport.write(self.h2.data_to_send())

    def answer(self, stream, headers, digest, length):
        told = {
            "name": NAME,
            "version": "HTTP/2",
            "headers": [list(pair) for pair in headers],
            "length": length,
            "sha256": digest.hexdigest(),
        }
        self.h2.send_headers(stream, [(":status", "200"), ("server-name", NAME), ("content-type", "application/json")])
        self.h2.send_data(stream, json.dumps(told).encode(), end_stream=True)


async def main():
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await asyncio.get_running_loop().create_server(Connection, os.environ["HOST"], int(os.environ["PORT"]))
    await stop.wait()


asyncio.run(main())
