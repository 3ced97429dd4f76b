"""Reads the default key of a configuration home as the Python client does, or makes one: {"home"} in, {"address"} out.

The Python client keeps 32 raw bytes in `private-keys/ethereum.key`, and `config.json` may name another file.
"""

import json
import secrets
import sys
from pathlib import Path

from eth_account import Account

home = Path(json.load(sys.stdin)["home"])
key_file = home / "private-keys" / "ethereum.key"
config = home / "config.json"
if config.exists():
    settings = json.loads(config.read_text())
    assert settings["chain"] == "ETH", settings
    key_file = Path(settings["path"] or key_file)
if not key_file.exists():
    key_file.parent.mkdir(parents=True, exist_ok=True)
    key_file.write_bytes(secrets.token_bytes(32))
    config.write_text(json.dumps({"path": str(key_file), "type": "imported", "chain": "ETH", "address": None}))
json.dump({"address": Account.from_key(key_file.read_bytes()).address}, sys.stdout)
