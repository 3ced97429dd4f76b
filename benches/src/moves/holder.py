"""Holds data, writes more of it on request, and says how much; the same for all that is compared."""
import asyncio
import json
import os
import threading
import time

DATA = os.environ.get("BENCH_DATA", "/data")
PIECE = 256 << 10
# What is written while it moves goes round in this many bytes.
HOT = 64 << 20

written = 0
rate = 0.0


def now():
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def fill(mib):
    """So much more, of bytes that no compression makes smaller, in files of 64 MiB."""
    files = len([name for name in os.listdir(DATA) if name.startswith("fill-")])
    for first in range(0, mib, 64):
        with open(f"{DATA}/fill-{files * 64 + first}", "wb", 0) as file:
            for _ in range(min(64, mib - first)):
                file.write(os.urandom(1 << 20))
            os.fsync(file.fileno())
    return mib


def write_on():
    global written
    piece = os.urandom(PIECE)
    file = os.open(f"{DATA}/hot", os.O_CREAT | os.O_WRONLY)
    at = 0
    while True:
        if rate == 0:
            time.sleep(0.05)
            continue
        # A piece of its own each time, or it would compress.
        os.pwrite(file, os.urandom(16) + piece[16:], at)
        at = (at + PIECE) % HOT
        written += PIECE
        time.sleep(PIECE / (rate * (1 << 20)))


def appends(seconds):
    """Appends of 4 KiB that are durable, in a second."""
    block, count, until = os.urandom(4096), 0, time.monotonic() + seconds
    with open(f"{DATA}/appends", "wb", 0) as file:
        while time.monotonic() < until:
            file.write(block)
            os.fsync(file.fileno())
            count += 1
    return count / seconds


def stream(mib):
    """MiB a second of one large file, durable at the end."""
    piece, began = os.urandom(1 << 20), time.monotonic()
    with open(f"{DATA}/stream", "wb", 0) as file:
        for _ in range(mib):
            file.write(piece)
        os.fsync(file.fileno())
    return mib / (time.monotonic() - began)


def record():
    """Numbered records for ever; says which it found, and when each was durable."""
    path = f"{DATA}/records"
    try:
        number = len(open(path, "rb").read()) // 8
    except FileNotFoundError:
        number = 0
    os.write(1, f"found {os.environ['ALEPH_EPOCH']} {number}\n".encode())
    with open(path, "ab", 0) as file:
        while True:
            number += 1
            file.write(number.to_bytes(8))
            os.fsync(file.fileno())
            os.write(1, f"wrote {os.environ['ALEPH_EPOCH']} {number} {now()}\n".encode())
            time.sleep(0.005)


threading.Thread(target=write_on, daemon=True).start()
if os.environ.get("BENCH_RECORDS"):
    threading.Thread(target=record, daemon=True).start()


def set_rate(mib):
    global rate
    rate = float(mib)
    return rate


ROUTES = {"fill": fill, "appends": appends, "stream": stream, "rate": set_rate}


async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    what, _, number = scope["path"].strip("/").partition("/")
    answer = await asyncio.to_thread(ROUTES[what], int(number)) if what in ROUTES else written
    body = json.dumps({"answer": answer, "epoch": os.environ.get("ALEPH_EPOCH"), "rate": rate}).encode()
    head = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": head})
    await send({"type": "http.response.body", "body": body})
