"""A program that runs on demand, with another framework than FastAPI: pages, a stream and a WebSocket."""

import asyncio

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect


async def index(request: Request):
    return JSONResponse({"framework": "starlette", "client": request.client.host if request.client else None})


async def count(request: Request):
    async def numbers():
        for number in range(3):
            yield f"{number}\n"
            await asyncio.sleep(0.1)

    return StreamingResponse(numbers(), media_type="text/plain")


async def echo(websocket: WebSocket):
    await websocket.accept()
    try:
        while True:
            await websocket.send_text(await websocket.receive_text())
    except WebSocketDisconnect:
        pass


app = Starlette(routes=[Route("/", index), Route("/count", count), WebSocketRoute("/echo", echo)])
