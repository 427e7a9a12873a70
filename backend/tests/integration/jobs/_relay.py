"""A relay before a server that cuts connections: at a chosen message, before or after it is sent on, or all at once."""

import socket
from contextlib import suppress
from threading import Thread


class Relay:
    """Takes connections on a local port; `cut_at(word, …)` ends the one that next sends `word`, `cut()` ends all."""

    def __init__(self, host: str, port: int) -> None:
        self._server = (host, port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.cuts = 0
        self._word: bytes | None = None
        self._delivered = False
        self._open: list[socket.socket] = []
        Thread(target=self._accept, daemon=True).start()

    def cut_at(self, word: bytes, *, delivered: bool) -> None:
        """End the connection on which `word` is sent next; `delivered`: the server gets it, the client no answer."""
        self._delivered = delivered
        self._word = word

    def cut(self) -> None:
        """End every connection there is."""
        opened, self._open = self._open, []
        self.cuts += len(opened) // 2
        for one in opened:
            _end(one)

    def close(self) -> None:
        """Take no more connections."""
        _end(self._listener)

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._server)
                self._open += [client, server]
                Thread(target=self._forth, args=(client, server), daemon=True).start()
                Thread(target=_copy, args=(server, client), daemon=True).start()

    def _forth(self, client: socket.socket, server: socket.socket) -> None:
        with suppress(OSError):
            while data := client.recv(65536):
                if self._word is not None and self._word in data:
                    self._word = None
                    self.cuts += 1
                    # The answer finds nobody.
                    _end(client)
                    if self._delivered:
                        server.sendall(data)
                        server.settimeout(2)
                        server.recv(65536)
                    break
                server.sendall(data)
        _end(client)
        _end(server)


def _copy(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    _end(source)
    _end(target)


def _end(one: socket.socket) -> None:
    with suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)
    one.close()
