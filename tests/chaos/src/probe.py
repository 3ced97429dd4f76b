"""Says at every instant that it runs, under which epoch, and answers requests with the same."""
import json
import os
import threading
import time
import uuid

EPOCH = int(os.environ["ALEPH_EPOCH"])
COPY = uuid.uuid4().hex[:12]


def now():
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def live():
    while True:
        os.write(1, f"alive {EPOCH} {COPY} {now()}\n".encode())
        time.sleep(0.05)


threading.Thread(target=live, daemon=True).start()


async def app(scope, receive, send):
    assert scope["type"] == "http"
    body = json.dumps({"epoch": EPOCH, "copy": COPY, "at": now()}).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
    await send({"type": "http.response.body", "body": body})
