"""The whole engine in one thread, in virtual time, with every choice from one seed.

The real worker, client and SQLite storage run on an event loop without I/O. Processes crash, stop and start again; what
they ask of the storage takes its time, fails before or after it is done; the clock jumps: all as the seed says. In the
end every instance must have ended as a model of its program says. ``python -m romancy.testing.simulation --help``.
"""

from __future__ import annotations

from romancy.testing.simulation.simulate import Broken, simulate

__all__ = ["Broken", "simulate"]
