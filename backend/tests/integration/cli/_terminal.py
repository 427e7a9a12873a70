"""A process on a terminal of its own, as a person sits before it."""

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import termios
import time
from collections.abc import Sequence

CTRL_C = "\x03"
_CONTROLS = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Terminal:
    """Runs a command on a pseudo-terminal, 120 columns wide, which controls it: Ctrl-C is a signal there."""

    def __init__(self, command: Sequence[str], env: dict[str, str]) -> None:
        self._ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
        self._said = b""
        self._process = subprocess.Popen(
            ["setsid", "--ctty", *command],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env={**env, "TERM": "xterm-256color", "NO_COLOR": "1"},
        )
        os.close(theirs)

    @property
    def said(self) -> str:
        """What stood on the screen until now, without the signs that move the cursor."""
        return _CONTROLS.sub("", self._said.decode(errors="replace"))

    def type(self, text: str) -> None:
        """Press keys."""
        os.write(self._ours, text.encode())

    def expect(self, text: str, timeout: float = 20.0) -> None:
        """Wait until this was on the screen."""
        ends = time.monotonic() + timeout
        while text not in self.said:
            left = ends - time.monotonic()
            assert left > 0, f"{text!r} was not said:\n{self.said}"
            assert self._read(left), f"it ended without {text!r}:\n{self.said}"

    def wait(self, timeout: float = 20.0) -> int:
        """Wait until the command has ended; return its exit code."""
        ends = time.monotonic() + timeout
        while self._read(max(0.0, ends - time.monotonic())):
            assert time.monotonic() < ends, f"it goes on:\n{self.said}"
        return self._process.wait(timeout)

    def close(self) -> None:
        """Kill the command if it runs, and close the terminal."""
        self._process.kill()
        self._process.wait()
        os.close(self._ours)

    def _read(self, timeout: float) -> bool:
        """Read what comes within `timeout` seconds; return whether there may be more."""
        if not select.select([self._ours], [], [], timeout)[0]:
            return True
        try:
            more = os.read(self._ours, 65536)
        except OSError:  # nobody has the other end open any more
            return False
        self._said += more
        return bool(more)
