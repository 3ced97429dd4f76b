"""A hook of schemathesis: every other request asks for something that is there, and no other waits for an outcome."""

import collections
import json
import os

import schemathesis

KNOWN = json.loads(os.environ["KNOWN_VALUES"])
TURNS = collections.Counter()


@schemathesis.hook
def before_call(context, case, kwargs):
    label = case.operation.label
    turn = TURNS[label]
    TURNS[label] += 1
    if turn % 2 == 0:
        # A message that lacks something is decided after ten seconds.
        for part in (case.body, case.body.get("metadata") if isinstance(case.body, dict) else None):
            if isinstance(part, dict) and part.get("sync") is True:
                part["sync"] = False
        return

    def replace(values):
        for name in values or ():
            if name in KNOWN:
                values[name] = KNOWN[name][turn // 2 % len(KNOWN[name])]

    replace(case.path_parameters)
    replace(case.query)
    if label in KNOWN:
        case.body = KNOWN[label][turn // 2 % len(KNOWN[label])]
