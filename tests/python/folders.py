"""What only the newest SDK does: it uploads folders, which no message node of this project keeps.

Reads {}; prints the status of the refusal.
"""

import asyncio
import json
import os
import sys
import tempfile
from pathlib import Path

from aiohttp import ClientResponseError
from aleph.sdk.chains.ethereum import ETHAccount
from aleph.sdk.client import AuthenticatedAlephHttpClient


async def main():
    json.load(sys.stdin)
    own_key = Path(os.environ["ALEPH_CONFIG_HOME"]) / "private-keys" / "ethereum.key"
    async with AuthenticatedAlephHttpClient(account=ETHAccount(own_key.read_bytes())) as client:
        with tempfile.TemporaryDirectory() as root:
            (Path(root) / "inner").mkdir()
            (Path(root) / "inner" / "file").write_text("in a folder")
            try:
                await client.create_store_folder(root, sync=True)
            except ClientResponseError as error:
                json.dump({"status": error.status}, sys.stdout)
                return
    raise AssertionError("a folder was taken")


asyncio.run(main())
