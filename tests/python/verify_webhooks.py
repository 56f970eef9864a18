"""Verifies requests of webhooks, independently of TalkHub: by the rules of Standard Webhooks 1.0.0 with Python's
standard library, and by the standard's own library too if it is installed (PyPI: standardwebhooks).

Each line of the input is JSON: "secret", "headers", "body". Prints how many were right; ends with an error at
the first that is wrong.
"""

import base64
import hashlib
import hmac
import json
import sys
import time

try:
    from standardwebhooks import Webhook
except ImportError:
    Webhook = None


def verify(secret, headers, body):
    if abs(time.time() - int(headers["webhook-timestamp"])) > 300:
        raise ValueError("too old")
    key = base64.b64decode(secret.removeprefix("whsec_"))
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.{body}".encode()
    right = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
    for signature in headers["webhook-signature"].split(" "):
        version, _, value = signature.partition(",")
        if version == "v1" and hmac.compare_digest(value, right):
            return
    raise ValueError("no signature is right")


def main():
    count = 0
    for line in sys.stdin:
        request = json.loads(line)
        verify(request["secret"], request["headers"], request["body"])
        if Webhook:
            Webhook(request["secret"]).verify(request["body"], request["headers"])
        count += 1
    how = "both ways" if Webhook else "one way"
    print(f"{count} verified {how}")


if __name__ == "__main__":
    main()
