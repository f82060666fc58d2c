#!/usr/bin/env python3
"""A relay that is some way off: passes octets between clients and a receiver, each way after a fixed delay.

  delay_relay.py LISTEN:PORT RECEIVER:PORT MILLISECONDS

MILLISECONDS is one way: 25 makes a round trip of 50 ms. Octets keep their order and are delayed, not slowed: any number of
them may be under way. For measuring what a round trip costs, where the kernel has no netem.
"""

import asyncio
import sys


async def carry(reader, writer, delay):
    loop = asyncio.get_running_loop()
    under_way = asyncio.Queue()

    async def arrive():
        while True:
            at, octets = await under_way.get()
            await asyncio.sleep(max(0, at - loop.time()))
            if not octets:
                writer.close()
                return
            writer.write(octets)
            await writer.drain()

    arriving = asyncio.create_task(arrive())
    octets = b"."
    while octets:
        try:
            octets = await reader.read(1 << 16)
        except ConnectionError:
            octets = b""
        under_way.put_nowait((loop.time() + delay, octets))
    await asyncio.gather(arriving, return_exceptions=True)


async def main(listen, receiver, milliseconds):
    host, port = listen.rsplit(":", 1)
    to_host, to_port = receiver.rsplit(":", 1)
    delay = float(milliseconds) / 1000

    async def serve(reader, writer):
        # The handshake takes a round trip, too.
        await asyncio.sleep(2 * delay)
        to_reader, to_writer = await asyncio.open_connection(to_host, int(to_port))
        await asyncio.gather(carry(reader, to_writer, delay), carry(to_reader, writer, delay))

    server = await asyncio.start_server(serve, host, int(port))
    async with server:
        await server.serve_forever()


asyncio.run(main(*sys.argv[1:]))
