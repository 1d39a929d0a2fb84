"""A headless Chromium for tests, driven through its DevTools protocol: no driver, no download."""

import asyncio
import base64
import itertools
import json
import shutil
import tempfile
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-extensions",
    "--autoplay-policy=no-user-gesture-required",
    "--remote-debugging-port=0",
)
START_S, ANSWER_S = 30.0, 30.0


def chromium():
    """Where Chromium is, or None."""
    return next(
        (
            found
            for name in ("chromium", "chromium-browser", "google-chrome")
            if (found := shutil.which(name))
        ),
        None,
    )


class Page:
    """One tab. ``errors`` gathers what its console complains of, ``requests`` what it asks for."""

    def __init__(self, socket):
        self._socket = socket
        self._ids = itertools.count(1)
        self._answers = {}
        self.errors = []
        self.requests = []
        self._reader = asyncio.create_task(self._read())

    async def _read(self):
        async for message in self._socket:
            said = json.loads(message.data)
            if "id" in said:
                self._answers.pop(said["id"]).set_result(said)
            else:
                self._note(said["method"], said["params"])

    def _note(self, method, params):
        if method == "Runtime.exceptionThrown":
            self.errors.append(
                params["exceptionDetails"].get("exception", {}).get("description", "exception")
            )
        elif method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.errors.append(params["entry"]["text"])
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning"):
            self.errors.append(str(params["args"]))
        elif method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])

    async def call(self, method, **params):
        number = next(self._ids)
        self._answers[number] = asyncio.get_running_loop().create_future()
        await self._socket.send_json({"id": number, "method": method, "params": params})
        async with asyncio.timeout(ANSWER_S):
            said = await asyncio.shield(self._answers[number])
        assert "error" not in said, (method, said)
        return said["result"]

    async def open(self, path, fragment=""):
        await self.call("Page.navigate", url=path.resolve().as_uri() + fragment)
        await self.until("document.readyState === 'complete' && document.documentElement.dataset.ready")

    async def js(self, expression):
        """The value of ``expression``, awaited where it is a promise."""
        said = await self.call(
            "Runtime.evaluate",
            expression=expression,
            returnByValue=True,
            awaitPromise=True,
            userGesture=True,
        )
        assert "exceptionDetails" not in said, (expression, said["exceptionDetails"])
        return said["result"].get("value")

    async def until(self, expression, timeout_s=10.0):
        """Wait until ``expression`` is true, from frame to frame."""
        deadline = f"performance.now() + {timeout_s * 1000}"
        script = (
            f"new Promise((ok) => {{ const end = {deadline}; const look = () => {{ if ({expression}) ok(true);"
            " else if (performance.now() > end) ok(false); else setTimeout(look, 10); }; look(); })"
        )
        assert await self.js(script), f"never true: {expression}"

    async def key(self, key):
        for kind in ("rawKeyDown", "keyUp"):
            code = {"Enter": 13, "ArrowRight": 39, "ArrowDown": 40, "Escape": 27}.get(
                key, ord(key[0].upper())
            )
            await self.call("Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=code)

    async def hover(self, selector):
        place = await self.js(
            f"(() => {{ const r = document.querySelector({json.dumps(selector)}).getBoundingClientRect();"
            " return [r.x + r.width / 2, r.y + r.height / 3]; })()"
        )
        await self.call("Input.dispatchMouseEvent", type="mouseMoved", x=place[0], y=place[1])

    async def window(self, width, height, *, dark=False, phone=False):
        await self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=phone,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        await self.call("Emulation.setEmulatedMedia", features=[scheme])

    async def screenshot(self, path):
        shot = await self.call("Page.captureScreenshot", format="png")
        Path(path).write_bytes(base64.b64decode(shot["data"]))


@asynccontextmanager
async def browser():
    """A Chromium with one empty page."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        process = await asyncio.create_subprocess_exec(
            chromium(), *FLAGS, f"--user-data-dir={profile}", "about:blank",
            stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        try:
            async with (
                aiohttp.ClientSession() as session,
                session.ws_connect(await _address(process, session), max_msg_size=0) as socket,
            ):
                page = Page(socket)
                for domain in ("Page", "Runtime", "Log", "Network"):
                    await page.call(f"{domain}.enable")
                yield page
                page._reader.cancel()
        finally:
            process.terminate()
            process._transport.close()
            await process.wait()


async def _address(process, session):
    async with asyncio.timeout(START_S):
        while line := await process.stderr.readline():
            if b"DevTools listening on" in line:
                base = line.decode().split("ws://")[1].split("/")[0]
                break
        drain = asyncio.create_task(process.stderr.read())
        process._drain = drain
        async with session.get(f"http://{base}/json/list") as answer:
            return next(
                tab["webSocketDebuggerUrl"] for tab in await answer.json() if tab["type"] == "page"
            )
