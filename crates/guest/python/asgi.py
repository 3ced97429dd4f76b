"""Serves an ASGI application on the socket that the init passes, and reports when it is ready or why it is not.

Usage: asgi.py MODULE ATTRIBUTE, or asgi.py --wait to be told those later. Descriptor 4 is the listening socket, descriptor 5
the connection with the init, one JSON object a line.

The server (uvicorn and what it needs) is brought along in `python/` next to this file, so that any image with python3
can run ASGI programs. It is imported before the program's own directories are in front, and leaves the front afterwards:
the program's versions of everything else win.

Who waits imports what the image names (see `preload`), and becomes the program as if it had been started for it. Where that
cannot be, because the program brings what was imported or sets what only counts at the start of an interpreter, it begins
anew (`must_begin_anew`).
"""

import importlib
import json
import os
import random
import socket
import sys
import traceback

LISTENER_FD = 4
CHANNEL_FD = 5
HERE = os.path.dirname(os.path.abspath(__file__))
SERVER_DIRECTORY = os.path.join(HERE, "python")
CODE_DIRECTORY = "/opt/code"
PROGRAM_DIRECTORIES = [CODE_DIRECTORY, "/opt/packages"]
# What the image wants to be imported by who waits: Python code, which may also use what it imports.
PRELOAD = "/usr/lib/aleph/preload.py"
MAX_MESSAGE = 2000
# Variables that the interpreter and the C library read when they start. The modules that were preloaded may have read
# variables that begin with their names.
READ_AT_START = ("PYTHON", "LANG", "LC_", "LD_", "TZ", "PATH", "HOME", "MALLOC_", "GLIBC_", "GCONV_", "OPENSSL_", "SSL_")


class Channel:
    """The connection with the init. It is not passed on to what the program starts."""

    def __init__(self):
        self.socket = socket.socket(fileno=CHANNEL_FD)
        self.socket.set_inheritable(False)

    def report(self, **fields):
        try:
            self.socket.sendall((json.dumps(fields) + "\n").encode())
        except OSError:
            pass  # The init is gone, and this process with it in a moment.

    def receive(self):
        """The next message; ends the process when the init is gone."""
        read = bytearray()
        while not read.endswith(b"\n"):
            chunk = self.socket.recv(65536)
            if not chunk:
                sys.exit(0)
            read += chunk
        return json.loads(read)

    def finish(self, **fields):
        """The last report: what the program runs in has no connection with the init."""
        self.report(**fields)
        self.socket.close()

    def fail(self, kind, message):
        self.finish(failed=kind, message=message[-MAX_MESSAGE:])
        sys.exit(1)


def load(channel, module_name, attribute):
    """The application object; ends the process with a report when it cannot be had."""
    try:
        found = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        traceback.print_exc()
        missing = error.name or ""
        if module_name == missing or module_name.startswith(missing + "."):
            channel.fail("entrypoint", f"the module '{module_name}' is not in the code")
        channel.fail("startup", traceback.format_exc())
    except BaseException:
        traceback.print_exc()
        channel.fail("startup", traceback.format_exc())
    for part in attribute.split("."):
        if not hasattr(found, part):
            channel.fail("entrypoint", f"the module '{module_name}' has no attribute '{attribute}'")
        found = getattr(found, part)
    if not callable(found):
        channel.fail("entrypoint", f"'{module_name}:{attribute}' is no ASGI application: it cannot be called")
    return found


def import_server(channel):
    sys.path[0] = SERVER_DIRECTORY  # In place of this script's directory.
    try:
        import uvicorn
        import uvicorn.lifespan.on
        import uvicorn.protocols.http.auto
        import uvicorn.protocols.websockets.auto
    except BaseException:
        traceback.print_exc()
        channel.fail("runtime", "the runtime image's python3 cannot run the ASGI server:\n" + traceback.format_exc())
    sys.path.pop(0)
    sys.path.append(SERVER_DIRECTORY)


def modules():
    """The names of the modules and packages that are imported, without what is in packages."""
    return {name.partition(".")[0] for name in sys.modules}


def preload():
    """Imports what the image names. Returns the modules that a program without them would not have."""
    before = modules()
    try:
        with open(PRELOAD, "rb") as file:
            code = compile(file.read(), PRELOAD, "exec")
    except FileNotFoundError:
        return set()
    exec(code, {"__name__": "preload", "__file__": PRELOAD})
    return modules() - before


def must_begin_anew(preloaded, environment):
    """Whether the program would see a difference between this interpreter and one that was started for it."""
    for directory in PROGRAM_DIRECTORIES:
        try:
            names = os.listdir(directory)
        except OSError:
            continue
        if any(name.partition(".")[0] in preloaded for name in names):
            return True
    changed = {key for key in os.environ.keys() | environment.keys() if os.environ.get(key) != environment.get(key)}
    read = READ_AT_START + tuple(name.upper() + "_" for name in preloaded)
    return any(key.startswith(read) for key in changed)


def wait(channel):
    """Waits to be told what to become. Returns the module and the attribute."""
    preloaded = preload()
    # What the server imports when it is configured.
    import logging.config
    import uvicorn.logging
    import uvicorn.loops.auto
    import uvicorn.middleware.proxy_headers

    channel.report(warm=True)
    told = channel.receive()
    arguments = [told["module"], told["attribute"]]
    environment = told["environment"]
    os.chdir(CODE_DIRECTORY)
    if must_begin_anew(preloaded, environment):
        for descriptor in (LISTENER_FD, CHANNEL_FD):
            os.set_inheritable(descriptor, True)
        script = os.path.join(HERE, "asgi.py")
        os.execve(sys.executable, [sys.executable, "-s", script, *arguments], environment)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv[1:] = arguments
    # Each process has its own state of it, from the kernel. It is as new as that of one that did not wait.
    random.seed()
    importlib.invalidate_caches()
    return arguments


def serve(channel, module_name, attribute):
    import uvicorn
    from uvicorn.lifespan.on import LifespanOn
    from uvicorn.protocols.http.auto import AutoHTTPProtocol
    from uvicorn.protocols.websockets.auto import AutoWebSocketsProtocol

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
                message = self.failure or "the application's startup failed"
                channel.finish(failed="startup", message=message[-MAX_MESSAGE:])

    class Server(uvicorn.Server):
        async def startup(self, sockets=None):
            await super().startup(sockets=sockets)
            channel.finish(ready=True)

    sys.path[0:0] = PROGRAM_DIRECTORIES
    config = uvicorn.Config(
        load(channel, module_name, attribute),
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


def main():
    channel = Channel()
    import_server(channel)
    module_name, attribute = wait(channel) if sys.argv[1:] == ["--wait"] else sys.argv[1:3]
    serve(channel, module_name, attribute)


if __name__ == "__main__":
    main()
