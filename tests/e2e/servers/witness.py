"""A stranger to the mesh: it answers every HTTP request with the very bytes of its head, on the address it is given."""

import asyncio
import sys


async def talk(reader, writer):
    head = await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 200 OK\r\nserver: stranger\r\ncontent-length: %d\r\n\r\n%b" % (len(head), head))
    await writer.drain()
    writer.close()


async def main():
    address, port = sys.argv[1:]
    server = await asyncio.start_server(talk, address, int(port))
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    await server.serve_forever()


asyncio.run(main())
