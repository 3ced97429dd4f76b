"""Programs with the SDK: made, refused with the error that is meant for it, and deleted.

Reads {"source": text of main.py, "holds": tokens of the account, enough for one persistent program and one on demand};
prints the hashes of what it leaves.
"""

import asyncio
import io
import json
import os
import sys
import zipfile
from pathlib import Path

from aleph.sdk.chains.ethereum import ETHAccount
from aleph.sdk.client import AuthenticatedAlephHttpClient
from aleph.sdk.conf import settings
from aleph.sdk.exceptions import InsufficientFundsError, InvalidMessageError
from aleph.sdk.utils import make_program_content
from aleph_message.models import Chain
from aleph_message.models.execution.base import Encoding, Payment, PaymentType
from aleph_message.status import MessageStatus


def packed(source):
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("main.py", source)
    return archive.getvalue()


async def publish(client, archive):
    store, status = await client.create_store(file_content=archive, sync=True)
    assert status == MessageStatus.PROCESSED, status
    return store.item_hash


def fields(code, **more):
    """A program in the runtime that the SDK names by default."""
    return {
        "program_ref": code,
        "entrypoint": "main:app",
        "runtime": settings.DEFAULT_RUNTIME_ID,
        "encoding": Encoding.zip,
        "vcpus": 1,
        "memory": 128,
        "internet": False,
        **more,
    }


async def refusals(client, code, program, holds):
    """No more than the account can pay for; no payment that is not known here; no file taken away from a program."""
    me = client.account.get_address()
    try:
        await client.create_program(**fields(code, persistent=True, metadata={"name": "too much"}), sync=True)
    except InsufficientFundsError as error:
        locked = (await client.get_balances(me)).locked_amount
        price = (await client.get_program_price(program)).required_tokens
        assert (error.required_funds, error.available_funds) == (locked + price, holds), error
    else:
        raise AssertionError("what is not paid for runs")

    stream = Payment(chain=Chain.AVAX, type=PaymentType.superfluid, receiver=me)
    try:
        await client.create_program(**fields(code, payment=stream), sync=True)
    except ValueError as error:
        assert "Unknown error code 202" in str(error) and "superfluid" in str(error), error
    else:
        raise AssertionError("a payment that nobody here takes was taken")

    try:
        await client.forget([code], reason=None, sync=True)
    except InvalidMessageError as error:
        assert error.args[0]["error_code"] == 503 and program in str(error), error
    else:
        raise AssertionError("the code of a program was forgotten")


async def main():
    wanted = json.load(sys.stdin)
    own_key = Path(os.environ["ALEPH_CONFIG_HOME"]) / "private-keys" / "ethereum.key"
    async with AuthenticatedAlephHttpClient(account=ETHAccount(own_key.read_bytes())) as client:
        code = await publish(client, packed(wanted["source"]))
        estimate = await client.get_estimated_price(make_program_content(**fields(code, persistent=True)))
        program, status = await client.create_program(**fields(code, persistent=True, allow_amend=True), sync=True)
        assert status == MessageStatus.PROCESSED, status
        price = await client.get_program_price(program.item_hash)
        assert price.required_tokens == estimate.required_tokens, (price, estimate)

        other_code = await publish(client, packed(wanted["source"] + "\n"))
        other, status = await client.create_program(**fields(other_code), sync=True)
        assert status == MessageStatus.PROCESSED, status
        await refusals(client, code, program.item_hash, wanted["holds"])

        # The second is only right once the first was done; nobody waits in between.
        for target in (other.item_hash, other_code):
            _, status = await client.forget([target], reason="over")
            assert status == MessageStatus.PENDING, status
        while await client.get_message_status(other_code) != MessageStatus.FORGOTTEN:
            await asyncio.sleep(0.05)
    left = {"program": program.item_hash, "deleted": other.item_hash, "deleted_code": other_code}
    json.dump(left, sys.stdout)


asyncio.run(main())
