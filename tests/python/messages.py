"""Posts, aggregates, files, queries, a watch, forgetting and delegation with the SDK, and the errors that it promises.

Reads {"friend": key file}; prints the hashes of the messages that it leaves, and of the newest version of the file.
"""

import asyncio
import json
import os
import sys
import time
from pathlib import Path

from aleph.sdk.chains.ethereum import ETHAccount
from aleph.sdk.client import AuthenticatedAlephHttpClient
from aleph.sdk.exceptions import ForgottenMessageError, InvalidMessageError, MessageNotFoundError
from aleph.sdk.query.filters import MessageFilter, PostFilter, SortOrder
from aleph.sdk.types import Authorization, StorageEnum
from aleph_message.models import MessageType, PostMessage, StoreMessage
from aleph_message.status import MessageStatus

CHANNEL = "SDK"


def client_of(key_file):
    return AuthenticatedAlephHttpClient(account=ETHAccount(Path(key_file).read_bytes()))


async def refused(request, error_code):
    """The details of the refusal of a message that was waited for."""
    try:
        await request
    except InvalidMessageError as error:
        (answer,) = error.args
        assert answer["message_status"] == "rejected", answer
        assert answer["error_code"] == error_code, answer
        return answer["details"]
    raise AssertionError("it was not refused")


async def processed(client, item_hash):
    while await client.get_message_status(item_hash) != MessageStatus.PROCESSED:
        await asyncio.sleep(0.05)


async def posts(client):
    me = client.account.get_address()
    post, status = await client.create_post({"text": "one"}, "note", ref="topic", channel=CHANNEL, sync=True)
    assert status == MessageStatus.PROCESSED, status
    amend, status = await client.create_post({"text": "two"}, "amend", ref=post.item_hash, channel=CHANNEL, sync=True)
    assert status == MessageStatus.PROCESSED, status
    wanted = PostFilter(types=["note"], addresses=[me], refs=["topic"], channels=[CHANNEL])
    (shown,) = (await client.get_posts(post_filter=wanted, ignore_invalid_messages=False)).posts
    assert shown.content == {"text": "two"}, shown
    assert (shown.item_hash, shown.original_item_hash) == (amend.item_hash, post.item_hash), shown

    # Amends are of posts, not of amends.
    await refused(client.create_post({}, "amend", ref=amend.item_hash, channel=CHANNEL, sync=True), 102)
    return post


async def pages(client):
    """Lists by page and by cursor, in both orders, and by time."""
    me = client.account.get_address()
    sent, before = [], []
    for number in range(5):
        before.append(time.time())
        post, status = await client.create_post({"number": number}, "page", channel=CHANNEL)
        assert status == MessageStatus.PENDING, "without sync nothing is waited for"
        sent.append(post)
    for post in sent:
        await processed(client, post.item_hash)
    hashes = [post.item_hash for post in sent]

    def wanted(order=SortOrder.ASCENDING, **more):
        return MessageFilter(
            message_types=[MessageType.post], content_types=["page"], addresses=[me], sort_order=order, **more
        )

    found = []
    for page in (1, 2, 3):
        answer = await client.get_messages(page_size=2, page=page, message_filter=wanted())
        assert (answer.pagination_page, answer.pagination_total, answer.pagination_per_page) == (page, 5, 2), answer
        found += [message.item_hash for message in answer.messages]
    assert found == hashes, found

    found, cursor = [], ""
    while cursor is not None:
        answer = await client.get_messages_cursor(2, cursor, wanted(SortOrder.DESCENDING))
        found += [message.item_hash for message in answer.messages]
        cursor = answer.next_cursor
    assert found == hashes[::-1], found

    found, cursor = [], ""
    while cursor is not None:
        filter_ = PostFilter(types=["page"], addresses=[me], sort_order=SortOrder.ASCENDING)
        answer = await client.get_posts_cursor(2, cursor, filter_)
        found += [post.item_hash for post in answer.posts]
        cursor = answer.next_cursor
    assert found == hashes, found

    between = wanted(start_date=before[1], end_date=before[3])
    answer = await client.get_messages(message_filter=between)
    assert [message.item_hash for message in answer.messages] == hashes[1:3], answer


async def aggregates(client):
    me = client.account.get_address()
    for content in ({"name": "x", "n": 1}, {"n": 2}):
        _, status = await client.create_aggregate("profile", content, channel=CHANNEL, sync=True)
        assert status == MessageStatus.PROCESSED, status
    assert await client.fetch_aggregate(me, "profile") == {"name": "x", "n": 2}
    assert await client.fetch_aggregates(me, ["profile"]) == {"profile": {"name": "x", "n": 2}}
    assert await client.get_aggregate(me, "unheard of") is None


async def files(client):
    me = client.account.get_address()
    contents = {StorageEnum.storage: os.urandom(1 << 16), StorageEnum.ipfs: os.urandom(5 << 20)}
    stores = {}
    for engine, content in contents.items():
        store, status = await client.create_store(file_content=content, storage_engine=engine, channel=CHANNEL, sync=True)
        assert status == MessageStatus.PROCESSED, status
        assert await client.download_file(store.content.item_hash) == content
        stores[engine] = await client.get_message(store.item_hash, StoreMessage)
    assert stores[StorageEnum.ipfs].content.item_hash.startswith("Qm")
    listed = await client.get_account_files(me)
    assert {file.item_hash for file in listed.files} == {store.item_hash for store in stores.values()}, listed
    first = stores[StorageEnum.storage].item_hash
    revision, status = await client.create_store(file_content=b"a newer version", ref=first, channel=CHANNEL, sync=True)
    assert status == MessageStatus.PROCESSED, status
    return first, revision.content.item_hash


async def watch(client):
    """A stream starts with what there is; the second message is sent when that was read, so that it comes live."""
    channel = f"{CHANNEL}-{time.time()}"
    first, _ = await client.create_post({"n": 1}, "watched", channel=channel, sync=True)
    stream = client.watch_messages(MessageFilter(message_types=[MessageType.post], channels=[channel]))
    seen = await asyncio.wait_for(anext(stream), 30)
    assert seen.item_hash == first.item_hash, seen
    await client.create_aggregate("unwatched", {"n": 2}, channel=channel, sync=True)
    await client.create_post({"n": 3}, "watched", channel=CHANNEL, sync=True)
    fourth, _ = await client.create_post({"n": 4}, "watched", channel=channel, sync=True)
    seen = await asyncio.wait_for(anext(stream), 30)
    assert (seen.item_hash, seen.content.content) == (fourth.item_hash, {"n": 4}), seen
    await stream.aclose()


async def forget(client):
    post, _ = await client.create_post({}, "over", channel=CHANNEL, sync=True)
    assert await client.get_message_error(post.item_hash) is None
    message, status = await client.forget([post.item_hash], reason="over", channel=CHANNEL, sync=True)
    assert status == MessageStatus.PROCESSED, status
    assert await client.get_message_status(post.item_hash) == MessageStatus.FORGOTTEN
    try:
        await client.get_message(post.item_hash)
    except ForgottenMessageError as error:
        assert message.item_hash in str(error), error
    else:
        raise AssertionError("a forgotten message was read")
    try:
        await client.get_message("ab" * 32, PostMessage)
    except MessageNotFoundError:
        pass
    else:
        raise AssertionError("an unknown message was read")
    await refused(client.forget([message.item_hash], reason=None, channel=CHANNEL, sync=True), 502)
    return post.item_hash


async def delegation(client, friend):
    me = client.account.get_address()
    leave = Authorization(address=friend.account.get_address(), types=[MessageType.post])
    await client.add_authorization(leave)
    while len(await client.get_authorizations(me)) != 1:
        await asyncio.sleep(0.05)
    post, status = await friend.create_post({}, "for another", address=me, channel=CHANNEL, sync=True)
    assert status == MessageStatus.PROCESSED, status
    await refused(friend.create_aggregate("profile", {"n": 3}, address=me, channel=CHANNEL, sync=True), 2)
    await client.revoke_all_authorizations(friend.account.get_address())
    while await client.get_authorizations(me):
        await asyncio.sleep(0.05)
    await refused(friend.create_post({"n": 2}, "for another", address=me, channel=CHANNEL, sync=True), 2)
    return post.item_hash


async def main():
    friend_key = json.load(sys.stdin)["friend"]
    own_key = Path(os.environ["ALEPH_CONFIG_HOME"]) / "private-keys" / "ethereum.key"
    async with client_of(own_key) as client, client_of(friend_key) as friend:
        post = await posts(client)
        await pages(client)
        await aggregates(client)
        first, revision = await files(client)
        await watch(client)
        left = {
            "post": post.item_hash,
            "file": first,
            "revision": revision,
            "forgotten": await forget(client),
            "by_friend": await delegation(client, friend),
        }
    json.dump(left, sys.stdout)


asyncio.run(main())
