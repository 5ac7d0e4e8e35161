"""Commands in processes of their own that wait for a signal at a moment which a test has named.

However busy the machine is, the signal comes neither too late nor too early: from that moment on the command does
nothing until it is there.
"""

from __future__ import annotations

import glob
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
PATIENCE = 300
"""Seconds after which a command that never comes to the moment, or a signal that is not answered, fails the test."""

_DRIVER = """
import glob, os, select, signal, sys, time
# A suite in the background of a shell ignores Ctrl-C, and its processes would too.
signal.signal(signal.SIGINT, signal.default_int_handler)
told, tell = os.pipe()
os.set_blocking(tell, False)
signal.set_wakeup_fd(tell)
moment, patience = sys.argv.pop(1), float(sys.argv.pop(1))

def hold():
    '''Wait for the signal, in any thread, once there is a file of that pattern.'''
    if glob.glob(moment):
        select.select([told], [], [], patience)
        time.sleep(0.2)  # in another thread than the main one, which has to answer
"""


class Stopped:
    """A command that holds at a moment.

    Args:
        driver: Python that has to call ``hold()`` often, and ends in the command; its arguments are in ``sys.argv``.
        moment: where it holds: as soon as there is a file of this pattern.
        arguments: of the command.
    """

    def __init__(self, driver: str, moment: Path, *arguments: str) -> None:
        self.moment = moment
        command = [sys.executable, "-c", _DRIVER + driver, str(moment), str(PATIENCE)]
        self.process = subprocess.Popen(
            [*command, *arguments], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def wait(self) -> None:
        """Until it has come to the moment."""
        end = time.monotonic() + PATIENCE
        while not glob.glob(str(self.moment)):
            assert self.process.poll() is None, self.process.communicate()
            assert time.monotonic() < end
            time.sleep(0.01)

    def stop(self, by: signal.Signals) -> tuple[int, str, str]:
        """Send the signal at the moment; the exit code, and what was printed to both streams."""
        try:
            self.wait()
            self.process.send_signal(by)
            output, errors = self.process.communicate(timeout=PATIENCE)
        finally:
            self.kill()
        return self.process.returncode, output, errors

    def kill(self) -> None:
        """End it, if it has not ended."""
        self.process.kill()
        self.process.communicate()
