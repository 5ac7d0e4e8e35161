"""What the sessions of this process hold of ``memory=``: it is a budget of the whole process, however many there are.

A scan claims what it may take beside what the process holds: with one worker at least, with more where there is room.
The rules:

- A scan that fits alone, but not beside what others have claimed, waits; first come, first served. One that does not
  fit alone is refused.
- What is resident because of other sessions is within their claims, and not counted again.
- A session that holds nothing between its scans gives its claim back after each. One with a ``reserve`` claims, with
  its first scan, what it will need to its end, so that it does not wait while others wait for it. Decoded blocks that
  it keeps take what is left, and are given back when somebody waits.
- Nobody waits for ever: when a scan would wait and all others that hold memory wait themselves, or belong to the same
  thread, it is refused. (A thread that holds a session and waits for another thread's scan is not seen.)

Engines without ``memory=`` claim nothing: what their scans take is held by the process.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

from eigenmill.reduce.engines.memory import format_bytes, give_back, resident
from eigenmill.reduce.errors import DoesNotFitError


class Claim:
    """What one session has claimed, in bytes.

    Attributes:
        limit: its engine's ``memory=``.
        reserve: what its caller will hold by the last scan; None for a session that holds nothing between scans.
        need: what its largest scan takes with one worker, as far as it is known.
        before: what the process held when it began, other sessions apart.
        bytes: claimed now. standing: claimed until the session ends.
        asks: what it waits for; 0 when it does not.
        stuck: whether it has looked since something was given back, and has to wait on.
        thread: that began its last scan.
    """

    def __init__(self, limit: int, reserve: int | None, need: int, before: int) -> None:
        self.limit, self.reserve, self.need, self.before = limit, reserve, need, before
        self.bytes = self.standing = self.asks = 0
        self.stuck = False
        self.thread = threading.get_ident()


class Ledger:
    """The claims of a process; its methods may be called by any thread."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Begin anew."""
        self._turn = threading.Condition()
        self._claims: list[Claim] = []
        self._queue: list[Claim] = []
        self._base = 0  # resident when nothing was claimed

    def open(self, limit: int, reserve: int | None = None, need: int = 0) -> Claim:
        """The claim of a session that begins: nothing yet."""
        if reserve is not None:
            give_back()  # what is held now is held against all its scans
        with self._turn:
            claim = Claim(limit, reserve, need, self._process(self._others(None)))
            self._claims.append(claim)
            return claim

    def held(self) -> int:
        """Bytes that the process holds, but for what sessions have claimed."""
        with self._turn:
            return self._process(self._others(None))

    def close(self, claim: Claim) -> None:
        """Give all back."""
        with self._turn:
            if claim in self._claims:
                self._claims.remove(claim)
            self._look_again()

    @property
    def crowded(self) -> bool:
        """Whether somebody waits."""
        return bool(self._queue)

    def begin(
        self,
        claim: Claim,
        size: Callable[[int], int],
        workers: int,
        kept: int,
        refusal: Callable[[int], DoesNotFitError],
    ) -> tuple[int, int]:
        """Claim what a scan takes, and wait for it if need be.

        Args:
            claim: of the session.
            size: bytes that the scan takes with so many workers.
            workers: at most.
            kept: bytes of blocks that the session keeps.
            refusal: the error for a process that holds so many bytes besides.

        Returns:
            How many workers there is room for, and bytes for further blocks that are kept.

        Raises:
            DoesNotFitError: it does not fit alone, or nobody would make room for it.
        """
        least, most, held = size(1), size(workers), kept + (claim.reserve or 0)
        with self._turn:
            claim.thread = threading.get_ident()
            if claim.reserve is not None:
                claim.standing = max(claim.standing, claim.reserve + max(claim.need, least))
            process, others = self._admitted(claim, least, most, held, refusal)
            free = claim.limit - others - self._promised(claim, held + least)
            count = next((w for w in range(workers, 1, -1) if process + size(w) <= free), 1)
            room = 0 if claim.reserve is None else max(free - (claim.before + held + size(count)), 0)
            claim.bytes = max(claim.standing, held + size(count) + room)
            self._look_again()  # of kept blocks some may have been given back
            return count, room

    def end(self, claim: Claim, kept: int) -> None:
        """Give back what the session does not hold between scans."""
        with self._turn:
            claim.bytes = 0 if claim.reserve is None else max(claim.standing, claim.reserve + kept)
            self._look_again()

    def _look_again(self) -> None:
        """Let all who wait see whether they still have to."""
        for claim in self._queue:
            claim.stuck = False
        self._turn.notify_all()

    def _others(self, claim: Claim | None) -> int:
        return sum(other.bytes for other in self._claims if other is not claim)

    def _process(self, others: int, claim: Claim | None = None, held: int = 0) -> int:
        """What the process holds but for the ``others``; of a session with a reserve, it is what it ``held``."""
        if others:
            found = max(self._base, resident() - others)
        else:
            found = resident()
            if claim is None or not claim.bytes:
                self._base = found
        if claim is None or claim.reserve is None:
            return found
        # The allocator still has what the last scan has freed, and this one takes it again: counted as held by the
        # process it would leave room for fewer workers.
        return claim.before + held if others else min(found, claim.before + held)

    def _admitted(
        self, claim: Claim, least: int, most: int, held: int, refusal: Callable[[int], DoesNotFitError]
    ) -> tuple[int, int]:
        """(what the process holds but for others, what they have claimed) once there is room for ``least`` bytes.

        What was freed and is still resident is given back where there is no room for ``most``.
        """
        try:
            while True:
                others = self._others(claim)
                process = self._process(others, claim, held)
                if process + most + others > claim.limit:
                    give_back()
                    process = self._process(others, claim, held)
                if (min(process, self._base) if others else process) + least > claim.limit:
                    raise refusal(process)
                if 0 < held + least <= claim.bytes:
                    return process, others
                rest = max(claim.standing - held, least)
                first = bool(claim.bytes) or self._queue[:1] in ([], [claim])
                if first and (not others or process + rest + others <= claim.limit):
                    return process, others
                if others and all(c.stuck or c.thread == claim.thread for c in self._claims if c.bytes):
                    raise DoesNotFitError(
                        f"expected {format_bytes(least)} of memory={format_bytes(claim.limit)} for a scan, found that "
                        f"sessions which cannot end before it hold {format_bytes(others)}; "
                        "close the session around it, or give more memory="
                    )
                if claim not in self._queue:
                    claim.asks = held + rest
                    self._queue.append(claim)
                claim.stuck = True
                self._turn.wait()
        finally:
            claim.asks, claim.stuck = 0, False
            if claim in self._queue:
                self._queue.remove(claim)
                self._look_again()

    def _promised(self, claim: Claim, least: int) -> int:
        """What more workers and kept blocks leave to the first who waits, where that lets it begin."""
        if not self._queue:
            return 0
        first, standing = self._queue[0], max(claim.standing, least)
        standing += sum(min(other.standing, other.bytes) for other in self._claims if other is not claim)
        return first.asks if self._base + standing + first.asks <= first.limit else 0


LEDGER = Ledger()
"""Of this process."""

# Threads of the parent, and so what they have claimed, are not in a child.
os.register_at_fork(after_in_child=LEDGER.forget)
