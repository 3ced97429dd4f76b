"""Serves an ASGI application on the socket that the init passes, and reports when it is ready or why it is not.

Usage: asgi.py MODULE ATTRIBUTE, with the listening socket as descriptor 4 and the report pipe as descriptor 5.

The server (uvicorn and what it needs) is brought along in `python/` next to this file, so that any image with python3
can run ASGI programs. It is imported before the program's own directories are in front, and leaves the front afterwards:
the program's versions of everything else win.
"""

import importlib
import json
import os
import socket
import sys
import traceback

LISTENER_FD = 4
STATUS_FD = 5
HERE = os.path.dirname(os.path.abspath(__file__))
SERVER_DIRECTORY = os.path.join(HERE, "python")
PROGRAM_DIRECTORIES = ["/opt/code", "/opt/packages"]
MAX_MESSAGE = 2000


def report(**fields):
    """Tells the init how it went, once."""
    try:
        with os.fdopen(STATUS_FD, "w") as pipe:
            pipe.write(json.dumps(fields) + "\n")
    except OSError:
        pass  # The init is gone, and this process with it in a moment.


def fail(kind, message):
    report(failed=kind, message=message[-MAX_MESSAGE:])
    sys.exit(1)


def load(module_name, attribute):
    """The application object; ends the process with a report when it cannot be had."""
    try:
        found = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        traceback.print_exc()
        missing = error.name or ""
        if module_name == missing or module_name.startswith(missing + "."):
            fail("entrypoint", f"the module '{module_name}' is not in the code")
        fail("startup", traceback.format_exc())
    except BaseException:
        traceback.print_exc()
        fail("startup", traceback.format_exc())
    for part in attribute.split("."):
        if not hasattr(found, part):
            fail("entrypoint", f"the module '{module_name}' has no attribute '{attribute}'")
        found = getattr(found, part)
    if not callable(found):
        fail("entrypoint", f"'{module_name}:{attribute}' is no ASGI application: it cannot be called")
    return found


def main():
    module_name, attribute = sys.argv[1:3]
    sys.path[0] = SERVER_DIRECTORY  # In place of this script's directory.
    try:
        import uvicorn
        from uvicorn.lifespan.on import LifespanOn
        from uvicorn.protocols.http.auto import AutoHTTPProtocol
        from uvicorn.protocols.websockets.auto import AutoWebSocketsProtocol
    except BaseException:
        traceback.print_exc()
        fail("runtime", "the runtime image's python3 cannot run the ASGI server:\n" + traceback.format_exc())

    class Lifespan(LifespanOn):
        """Reports what the application says when its start fails."""

        failure = ""

        async def send(self, message):
            if message["type"] == "lifespan.startup.failed":
                self.failure = message.get("message", "")
            await super().send(message)

        async def startup(self):
            await super().startup()
            if self.should_exit:
                report(failed="startup", message=(self.failure or "the application's startup failed")[-MAX_MESSAGE:])

    class Server(uvicorn.Server):
        async def startup(self, sockets=None):
            await super().startup(sockets=sockets)
            report(ready=True)

    sys.path.pop(0)
    sys.path[0:0] = PROGRAM_DIRECTORIES
    sys.path.append(SERVER_DIRECTORY)

    config = uvicorn.Config(
        load(module_name, attribute),
        http=AutoHTTPProtocol,
        ws=AutoWebSocketsProtocol,
        # Requests come through the gateway only, which says who asked.
        proxy_headers=True,
        forwarded_allow_ips="*",
        access_log=False,
        # Longer than the gateway keeps an idle connection, so that it never sends a request into a closing one.
        timeout_keep_alive=75,
    )
    config.load()
    config.lifespan_class = Lifespan
    listener = socket.socket(fileno=LISTENER_FD)
    Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main()
