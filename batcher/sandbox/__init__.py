"""A local stand-in for the Model API, to try everything without an account.

::

    async with Sandbox(SandboxSettings(speed=10)) as base_url:
        ...  # http://127.0.0.1:PORT/v1, any token
"""
