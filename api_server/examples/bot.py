"""A bot: it answers `ping` in a group with `pong`, once each. Python 3, standard library alone.

python3 bot.py URL KEY USER GROUP        the key needs the scopes read and send
"""
import json, sys, time, urllib.request

URL, KEY, USER, GROUP = sys.argv[1:5]

def call(method, path, body=None, name=None):
    headers = {"Authorization": "Bearer " + KEY, "Content-Type": "application/json"}
    if name:
        headers["Idempotency-Key"] = name
    data = json.dumps(body).encode() if body else None
    with urllib.request.urlopen(urllib.request.Request(URL + path, data, headers, method=method)) as answer:
        return json.load(answer)

done = 0
while True:
    for message in reversed(call("GET", f"/v1/users/{USER}/messages?in_group={GROUP}")["items"]):
        if message["msg_id"] > done and message.get("text") == "ping" and message["from"] != int(USER):
            # After a restart the same messages are read again: the name makes it one answer.
            body = {"from": int(USER), "to": {"group": int(GROUP)}, "text": "pong"}
            call("POST", "/v1/messages", body, name=f"pong {GROUP} {message['msg_id']}")
        done = max(done, message["msg_id"])
    time.sleep(1)
