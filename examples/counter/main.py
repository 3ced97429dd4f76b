"""Counts its requests in a SQLite database on a volume: the count goes on wherever the program runs."""
import os
import sqlite3

from fastapi import FastAPI

app = FastAPI()


@app.get("/")
def count():
    with sqlite3.connect("/data/counter.sqlite") as database:
        database.execute("create table if not exists requests (at text)")
        database.execute("insert into requests values (datetime())")
        (number,) = database.execute("select count(*) from requests").fetchone()
    return {"count": number, "epoch": int(os.environ["ALEPH_EPOCH"])}
