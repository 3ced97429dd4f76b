"""Signs and recovers with eth-account: {"key", "payloads", "signatures"} in, {"address", "signatures", "recovered"} out."""

import json
import sys

from eth_account import Account
from eth_account.messages import encode_defunct

request = json.load(sys.stdin)
account = Account.from_key(request["key"])
messages = [encode_defunct(text=payload) for payload in request["payloads"]]
json.dump(
    {
        "address": account.address,
        "signatures": ["0x" + bytes(account.sign_message(message).signature).hex() for message in messages],
        "recovered": [
            Account.recover_message(message, signature=signature)
            for message, signature in zip(messages, request["signatures"])
        ],
    },
    sys.stdout,
)
