"""A program with data: writes a record to one volume and a row to another, in turns, and says what it found and wrote.

A record is a line: its number, the checksum of all lines before it, the epoch. So what is left of them after a fault can
be told from what was written: nothing is missing in the middle, nothing is of another history. Rows follow records, so that
of two volumes of one moment neither is ahead of the other by more than the one that was being written."""
import http.client
import json
import os
import socket
import sqlite3
import threading
import time
import uuid
import zlib

EPOCH = int(os.environ["ALEPH_EPOCH"])
COPY = uuid.uuid4().hex[:12]
RECORDS = "/records/records"
# The last record that is durable on this node.
durable = 0


def now():
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def say(*words):
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


def live():
    while True:
        say("alive", EPOCH, COPY, now())
        time.sleep(0.05)


def broken(why):
    say("found", EPOCH, 0, why.replace(" ", "_"))
    # For ever: what is broken is not written to.
    threading.Event().wait()


def read_records():
    """How many there are, and the checksum of them all. One that was not synced may be torn, and is removed."""
    number, checksum, end = 0, 0, 0
    with open(RECORDS, "a+b") as file:
        file.seek(0)
        for line in file:
            if not line.endswith(b"\n"):
                break
            named, before, _ = line.split()
            if int(named) != number + 1 or int(before) != checksum:
                broken(f"record {named.decode()} follows record {number}")
            number, checksum, end = number + 1, zlib.crc32(line, checksum), end + len(line)
        file.truncate(end)
    return number, checksum


def open_rows():
    rows = sqlite3.connect("/rows/rows.sqlite", isolation_level=None)
    rows.execute("pragma synchronous = full")
    rows.execute("create table if not exists rows (number integer primary key, checksum integer not null)")
    return rows


def check_rows(rows, number, checksum):
    healthy = rows.execute("pragma integrity_check").fetchone()[0]
    count, last = rows.execute("select count(*), max(number) from rows").fetchone()
    if healthy != "ok" or count != (last or 0):
        broken(f"rows: {healthy}, {count} of {last}")
    if count not in (number, number - 1):
        broken(f"{count} rows beside {number} records")
    if count == number and number > 0:
        same = rows.execute("select checksum from rows where number = ?", (number,)).fetchone()[0]
        if same != checksum:
            broken(f"row {number} is of another history")


class GuestApi(http.client.HTTPConnection):
    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(os.environ["ALEPH_API_UNIX_SOCKET"])


def keep_flushing():
    """Says what is on the standby for certain. Without one a flush is refused, which is no fault."""
    while True:
        number = durable
        try:
            api = GuestApi("localhost", timeout=20)
            api.request("POST", "/volumes/flush?timeout=10")
            if api.getresponse().status == 200:
                say("flushed", EPOCH, number)
            api.close()
        except (OSError, http.client.HTTPException):
            # The agent does not run.
            pass
        time.sleep(0.5)


def write():
    global durable
    number, checksum = read_records()
    rows = open_rows()
    check_rows(rows, number, checksum)
    say("found", EPOCH, number, "whole")
    with open(RECORDS, "ab", 0) as file:
        if number > 0:
            rows.execute("insert or ignore into rows values (?, ?)", (number, checksum))
        while True:
            number += 1
            line = f"{number} {checksum} {EPOCH}\n".encode()
            file.write(line)
            os.fsync(file.fileno())
            checksum = zlib.crc32(line, checksum)
            rows.execute("insert into rows values (?, ?)", (number, checksum))
            say("wrote", EPOCH, number, now())
            durable = number
            time.sleep(0.05)


def guarded():
    try:
        write()
    except Exception as error:  # The program ends, and is started again.
        say("failed", EPOCH, repr(error))
        os._exit(1)


threading.Thread(target=live, daemon=True).start()
threading.Thread(target=guarded, daemon=True).start()
threading.Thread(target=keep_flushing, daemon=True).start()


async def app(scope, receive, send):
    assert scope["type"] == "http"
    body = json.dumps({"epoch": EPOCH, "copy": COPY, "at": now()}).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
    await send({"type": "http.response.body", "body": body})
