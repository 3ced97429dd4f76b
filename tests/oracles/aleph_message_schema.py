"""Reads messages with aleph-message: a list of messages in, {"read": how many, "errors": [...]} out."""

import json
import sys

from aleph_message import parse_message

read, errors = 0, []
for message in json.load(sys.stdin):
    try:
        parse_message(message)
        read += 1
    except Exception as error:  # noqa: BLE001 - whatever it is, it is reported
        errors.append(f"{message['type']} {message['item_hash']}: {error}")
json.dump({"read": read, "errors": errors}, sys.stdout)
