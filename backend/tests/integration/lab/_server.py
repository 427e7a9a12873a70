"""A server for tests: answers calls while it is on, and hangs up while it is off. Prints its port.

One line a connection: call, on, off, or count (the calls since it was last asked).
"""

import asyncio
import sys


class Server:
    """Its state."""

    def __init__(self) -> None:
        self.on = True
        self.calls = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one line."""
        asked = (await reader.readline()).decode().strip()
        if asked == "count":
            writer.write(b"%d\n" % self.calls)
            self.calls = 0
        elif asked in {"on", "off"}:
            self.on = asked == "on"
            writer.write(b"done\n")
        else:
            self.calls += 1
            writer.write(b"ok\n" if self.on else b"")
        await writer.drain()
        writer.close()


async def main() -> None:
    """Serve until killed."""
    server = await asyncio.start_server(Server().serve, "127.0.0.1", 0)
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await server.serve_forever()


asyncio.run(main())
