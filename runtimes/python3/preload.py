"""Imported by interpreters that wait for a program, before it is known for which: what programs of this image are likely to
import, used once so that what is made at the first use is there, too.

Nothing of it may be left that a program could notice but imported modules: no thread, no event loop, no task.
"""

import asyncio
import gc

import fastapi
import httptools
import pydantic
import uvloop


class Item(pydantic.BaseModel):
    name: str
    count: int = 0


app = fastapi.FastAPI()


@app.post("/items/{number}")
async def post(number: int, item: Item, question: str = "") -> Item:
    return item


async def request():
    body = b'{"name": "x", "count": 1}'
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": "/items/1",
        "raw_path": b"/items/1",
        "query_string": b"question=y",
        "root_path": "",
        "headers": [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())],
        "client": None,
        "server": None,
    }
    sent = []

    async def receive():
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message):
        sent.append(message)

    await app(scope, receive, send)
    assert sent[0]["status"] == 200, sent


for make_loop in (asyncio.new_event_loop, uvloop.new_event_loop):
    # Not asyncio.run: it would leave the thread without a loop of its own.
    loop = make_loop()
    loop.run_until_complete(request())
    loop.close()
gc.collect()
