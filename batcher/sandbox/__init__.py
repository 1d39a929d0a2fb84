"""A local stand-in for the Model API, to try everything without an account.

::

    async with Sandbox(SandboxSettings(speed=10)) as base_url:
        ...  # http://127.0.0.1:PORT/v1, any token
"""

from batcher.sandbox.faults import Fault, Stage
from batcher.sandbox.server import Sandbox
from batcher.sandbox.settings import SandboxSettings, SandboxStats

__all__ = ["Fault", "Sandbox", "SandboxSettings", "SandboxStats", "Stage"]
