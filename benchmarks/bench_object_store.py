"""What it costs to upload to S3 with obstore, with s3fs, and with a bucket of ours (which uses obstore).

Two servers on loopback: moto, which behaves as S3 does but is slow, and a sink that reads and says yes, so
that what is measured is the client. Each run is a process of its own. ``--s3fs-python`` names an interpreter
that has s3fs, which can't share an environment with a current boto3.

::

    python benchmarks/bench_object_store.py --s3fs-python /tmp/s3fs/bin/python
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import os
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
SETS = {"200 x 100 KiB": (200, 100 << 10), "8 x 64 MiB": (8, 64 << 20)}
AT_ONCE = 8
PARTS_AT_ONCE = 2
PART_BYTES = 8 << 20
BUCKET = "bench"
MODULES = {"obstore": "obstore", "s3fs": "s3fs", "batcher": "batcher.store.objects.remote"}


async def sink(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """As much of S3 as an upload needs. Remembers sizes, for HEAD."""
    try:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            method, target, _ = head.split("\r\n", 1)[0].split(" ")
            length = re.search(r"(?i)content-length: (\d+)", head)
            if "100-continue" in head:
                writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            left = size_bytes = int(length[1]) if length else 0
            while left:
                left -= len(await reader.read(min(left, 1 << 20)))
            writer.write(answer(method, target, size_bytes))
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()


SIZES: dict[str, int] = {}


def answer(method: str, target: str, size_bytes: int) -> bytes:
    key, _, query = target.partition("?")
    body = b""
    if method == "PUT":
        SIZES[key] = SIZES.get(key, 0) + size_bytes if "partNumber" in query else size_bytes
    elif query.startswith("uploads"):
        SIZES[key] = 0
        body = b"<InitiateMultipartUploadResult><UploadId>u1</UploadId></InitiateMultipartUploadResult>"
    elif method == "POST":
        body = b'<CompleteMultipartUploadResult><ETag>"e"</ETag></CompleteMultipartUploadResult>'
    length = SIZES.get(key, 0) if method == "HEAD" else len(body)
    head = (
        'HTTP/1.1 200 OK\r\nETag: "e"\r\nLast-Modified: Sat, 31 Jan 2026 09:30:00 GMT\r\n'
        f"Content-Type: application/xml\r\nContent-Length: {length}\r\n\r\n"
    )
    return head.encode() + body


async def serve_sink() -> None:
    server = await asyncio.start_server(sink, "127.0.0.1", 0, limit=1 << 20)
    print(f"listening on http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


def uploader(library: str) -> Any:
    """``async (path, key) -> None`` of one library, with the same parts at once for all."""
    endpoint = os.environ["AWS_ENDPOINT_URL"]
    if library == "batcher":
        from batcher.store.objects.opening import open_bucket

        bucket = open_bucket(f"s3://{BUCKET}")
        hashes: dict[Path, str] = {}

        async def put(path: Path, key: str) -> None:
            if path not in hashes:  # the downloader knows it already
                hashes[path] = hashlib.sha256(path.read_bytes()).hexdigest()
            await bucket.put_file(path, key, hashes[path], "video/mp4")

        return put
    if library == "obstore":
        import obstore
        from obstore.store import S3Store

        store = S3Store(
            BUCKET, endpoint=endpoint, client_options={"allow_http": True}, checksum_algorithm="SHA256"
        )
        return lambda path, key: obstore.put_async(
            store, key, path, chunk_size=PART_BYTES, max_concurrency=PARTS_AT_ONCE
        )
    import s3fs

    files = s3fs.S3FileSystem(endpoint_url=endpoint, asynchronous=True, skip_instance_cache=True)
    return lambda path, key: files._put_file(
        str(path), f"{BUCKET}/{key}", chunksize=PART_BYTES, max_concurrency=PARTS_AT_ONCE
    )


async def upload(library: str, path: Path, count: int) -> dict[str, float]:
    put, gate = uploader(library), asyncio.Semaphore(AT_ONCE)

    async def one(number: int) -> None:
        async with gate:
            await put(path, f"media/{number}.mp4")

    await one(-1)  # the first one connects, imports and hashes
    before, began_s = cpu_s(), time.perf_counter()
    await asyncio.gather(*(one(number) for number in range(count)))
    return {
        "wall_s": time.perf_counter() - began_s,
        "cpu_s": cpu_s() - before,
        "peak_mib": peak_mib(),
    }


def peak_mib() -> float:
    """This process's own peak: ``ru_maxrss`` counts what it was forked from, too."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 1024


def cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def child(library: str, path: Path, count: int) -> None:
    began_s = time.perf_counter()
    __import__(MODULES[library])
    imported = {"import_s": time.perf_counter() - began_s, "modules": len(sys.modules)}
    print(json.dumps(imported | asyncio.run(upload(library, path, count))))
    sys.stdout.flush()
    os._exit(0)  # s3fs leaves a session that nobody can close


def start_server(kind: str) -> tuple[subprocess.Popen[str], str]:
    from tests.support.object_store import SERVER

    command = ["-c", SERVER] if kind == "moto" else [__file__, "--sink"]
    process = subprocess.Popen([sys.executable, *command], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    line = next(line for line in process.stdout if line.startswith("listening on "))
    return process, line.removeprefix("listening on ").strip()


def measured(python: str, library: str, endpoint: str, path: Path, count: int) -> dict[str, float]:
    environment = os.environ | {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "bench",
        "AWS_SECRET_ACCESS_KEY": "bench",
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
        "PYTHONPATH": str(ROOT),
    }
    command = [python, __file__, "--child", library, str(path), str(count)]
    out = subprocess.run(
        command, env=environment, stdout=subprocess.PIPE, text=True, check=True, timeout=300
    )
    return json.loads(out.stdout.splitlines()[-1])


def compare(libraries: dict[str, str], runs: int, folder: Path) -> None:
    for server in ("sink", "moto"):
        for name, (count, size_bytes) in SETS.items():
            path = folder / "file"
            path.write_bytes(os.urandom(size_bytes))
            found: dict[str, list[dict[str, float]]] = {library: [] for library in libraries}
            for _ in range(runs):
                for library, python in libraries.items():  # in turn: the machine's mood is shared
                    process, endpoint = start_server(server)
                    try:
                        if server == "moto":
                            make_bucket(endpoint)
                        found[library].append(measured(python, library, endpoint, path, count))
                    finally:
                        process.kill()
                        process.wait()
            for library, results in found.items():
                show(server, name, library, results, count * size_bytes)


def make_bucket(endpoint: str) -> None:
    import boto3

    keys = {"aws_access_key_id": "bench", "aws_secret_access_key": "bench", "region_name": "us-east-1"}
    boto3.client("s3", endpoint_url=endpoint, **keys).create_bucket(Bucket=BUCKET)


def show(
    server: str, name: str, library: str, results: list[dict[str, float]], total_bytes: int
) -> None:
    middle = {key: statistics.median(result[key] for result in results) for key in results[0]}
    print(
        f"{server:5} {name:14} {library:8} {middle['wall_s']:6.2f} s {total_bytes / middle['wall_s'] / 2**20:7.0f} MiB/s"
        f"   CPU {middle['cpu_s']:6.2f} s   peak {middle['peak_mib']:5.0f} MiB"
        f"   import {middle['import_s'] * 1000:4.0f} ms, {middle['modules']:.0f} modules",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--s3fs-python", help="an interpreter that has s3fs")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--sink", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    if options.sink:
        asyncio.run(serve_sink())
    elif options.child:
        child(options.child[0], Path(options.child[1]), int(options.child[2]))
    else:
        libraries = {"obstore": sys.executable, "batcher": sys.executable}
        if options.s3fs_python:
            libraries["s3fs"] = options.s3fs_python
        with tempfile.TemporaryDirectory() as folder:
            compare(libraries, options.runs, Path(folder))


if __name__ == "__main__":
    main()
