"""An independent TeamTalk client: looks up the balancer, logs two users in on two gateways, lets
them chat, and checks everything that an old client relies on. See wire.py for the protocol.

Usage: teamtalk_client.py LOGIN_URL FIRST_USER SECOND_USER PASSWORD GROUP
Exits with 0 if everything is as the protocol says.
"""

import hashlib
import http.client
import json
import socket
import struct
import sys
import time
import urllib.parse

import wire
from wire import HEADER, decode, decrypt, encrypt, field

WINDOWS, MAC, IOS, ANDROID = 0x01, 0x02, 0x11, 0x12
# (version, flag, reserved) as seen from real clients.
HEADERS = {WINDOWS: (1, 0, 0), MAC: (1, 0, 0), IOS: (13, 0, 1), ANDROID: (6, 0, 48), 0: (0, 1, 0)}
SINGLE, GROUP = 1, 2
SINGLE_TEXT, SINGLE_VOICE, GROUP_TEXT = 0x01, 0x02, 0x11
PATIENCE = 15.0


def look_up(url):
    """Asks the balancer as Android does: strictly."""
    place = urllib.parse.urlsplit(url)
    connection = http.client.HTTPConnection(place.hostname, place.port, timeout=PATIENCE)
    connection.request("GET", place.path.rstrip("/") + "/msg_server?x=y")
    answer = connection.getresponse()
    assert answer.status == 200, answer.status
    assert answer.getheader("Content-Type") == "text/html;charset=utf-8", answer.headers
    assert answer.getheader("Content-Length") is not None, answer.headers
    told = json.loads(answer.read())
    connection.close()
    assert told["code"] == 0 and isinstance(told["msg"], str), told
    for key in ("priorIP", "backupIP", "port", "msfsPrior", "msfsBackup", "discovery"):
        assert isinstance(told[key], str), (key, told)
    assert told["port"].isdecimal(), told
    return told["priorIP"], int(told["port"])


def two_gateways(url):
    """The balancer gives the gateways in turn while nobody is connected."""
    first = look_up(url)
    for _ in range(200):
        second = look_up(url)
        if second != first:
            return first, second
    raise AssertionError(f"the balancer only ever gives {first}")


class Client:
    """One connection. Every frame is checked as it comes."""

    def __init__(self, gateway, kind):
        self.kind = kind
        self.header = HEADERS[kind]
        self.socket = socket.create_connection(gateway, timeout=PATIENCE)
        self.buffer = b""
        self.seq = 0
        self.pushes = []
        self.user = None

    def send(self, command, body=b"", seq=None, times=1):
        if seq is None:
            self.seq = seq = self.seq % 32766 + 1
        version, flag, reserved = self.header
        header = HEADER.pack(16 + len(body), version, flag, command >> 8, command, seq, reserved)
        self.socket.sendall((header + body) * times)
        return seq

    def receive(self):
        """The next frame as (command, seq, message); None if the server has closed."""
        while True:
            if len(self.buffer) >= 16:
                length, version, flag, service, command, seq, _ = HEADER.unpack(self.buffer[:16])
                assert 16 <= length <= wire.FRAME_MAX, f"length {length} of {command:#06x}"
                if len(self.buffer) >= length:
                    body, self.buffer = self.buffer[16:length], self.buffer[length:]
                    assert (version, flag) == (1, 0), (version, flag)
                    assert service == command >> 8, f"service {service} of {command:#06x}"
                    assert body or command == 0x0701, f"{command:#06x} is empty: iOS ignores it"
                    return command, seq, decode(command, body)
            try:
                data = self.socket.recv(65536)
            except ConnectionResetError:
                data = b""
            if not data:
                return None
            self.buffer += data

    def ask(self, command, body=b"", answer=None, seq=None, times=1):
        """Asks, and returns the answer; what is pushed meanwhile is kept."""
        seq = self.send(command, body, seq, times)
        while True:
            frame = self.receive()
            assert frame, f"closed instead of answering {command:#06x}"
            if frame[1] == seq and (seq or frame[0] == answer):
                assert frame[0] == (answer or command + 1), f"{frame[0]:#06x} to {command:#06x}"
                return frame[2]
            assert frame[1] == 0, f"seq {frame[1]} of {frame[0]:#06x}: nobody waits for it"
            self.pushes.append(frame)

    def pushed(self, command, fits=lambda message: True):
        """The next push with this command that fits; others are kept for later."""
        for at, (found, _, message) in enumerate(self.pushes):
            if found == command and fits(message):
                return self.pushes.pop(at)[2]
        while True:
            frame = self.receive()
            assert frame, f"closed instead of pushing {command:#06x}"
            assert frame[1] == 0, f"a push with seq {frame[1]}: {frame}"
            if frame[0] == command and fits(frame[2]):
                return frame[2]
            self.pushes.append(frame)

    def nothing_pushed(self, command):
        """What the server had to say is here once a request made now is answered."""
        self.ask(0x0305)
        left = [message for found, _, message in self.pushes if found == command]
        assert not left, (f"{command:#06x}", left)

    def log_in(self, name, password):
        digits = hashlib.md5(password.encode()).hexdigest()
        body = field(1, name) + field(2, digits) + field(3, 1) + field(4, self.kind)
        # Seq 1: Windows knows the answer by it alone.
        seq = self.send(0x0103, body + field(5, "1.0.0"))
        frame = self.receive()
        assert frame, "closed instead of answering the login"
        assert frame[:2] == (0x0104, seq), f"the first frame is {frame}"
        reply = frame[2]
        assert reply["text"], "iOS needs a text"
        if reply["result"] == 0:
            assert reply["online"] == 1 and abs(reply["time"] - time.time()) < 60, reply
            self.user = reply["user"]["user_id"]
        return reply

    def say(self, to, text, kind=SINGLE_TEXT, seq=None, author=0, times=1):
        """Sends a text and returns its number."""
        return self.say_data(to, encrypt(text), kind, seq, author, times)

    def say_data(self, to, data, kind=SINGLE_TEXT, seq=None, author=0, times=1):
        body = field(1, author) + field(2, to) + field(3, 0) + field(4, 0)
        body += field(5, kind) + field(6, data)
        ack = self.ask(0x0301, body, seq=seq, times=times)
        session_type = GROUP if kind & 0x10 else SINGLE
        expected = {"user_id": self.user, "session_id": to, "type": session_type}
        assert {key: ack[key] for key in expected} == expected, ack
        return ack["msg_id"]

    def hears(self, author, text, msg_id, to):
        message = self.pushed(0x0301, lambda message: message["msg_id"] == msg_id)
        assert (message["author"], message["to"]) == (author, to), message
        assert decrypt(message["data"]) == text, message
        assert abs(message["time"] - time.time()) < 60, message
        # As Android and iOS do; it has no answer.
        receipt = field(1, author) + field(2, to) + field(3, msg_id) + field(4, SINGLE)
        self.send(0x0302, receipt)

    def latest(self, peer, kind=SINGLE):
        return self.ask(0x030B, field(1, 0) + field(2, kind) + field(3, peer))["latest"]

    def unread(self, peer, kind=SINGLE):
        reply = self.ask(0x0307, field(1, 0))
        assert reply["user_id"] == self.user, reply
        assert reply["total"] == sum(entry["count"] for entry in reply["sessions"]), reply
        assert all(entry["count"] > 0 for entry in reply["sessions"]), reply
        for entry in reply["sessions"]:
            decrypt(entry["latest_data"])
            if (entry["id"], entry["type"]) == (peer, kind):
                return entry["count"]
        return 0

    def history(self, peer, count, begin=0, kind=SINGLE, seq=None):
        body = field(1, 0) + field(2, kind) + field(3, peer) + field(4, begin) + field(5, count)
        reply = self.ask(0x0309, body, seq=seq)
        asked = {"user_id": self.user, "type": kind, "id": peer, "begin": begin}
        assert {key: reply[key] for key in asked} == asked, reply
        ids = [message["msg_id"] for message in reply["messages"]]
        assert ids == sorted(ids, reverse=True) and len(set(ids)) == len(ids), ids
        return reply["messages"]

    def closed(self):
        while frame := self.receive():
            self.pushes.append(frame)


def wrong_passwords_are_refused(gateway, name):
    client = Client(gateway, WINDOWS)
    reply = client.log_in(name, "not the password")
    assert reply["result"] == 6 and "user" not in reply, reply
    client.closed()


def everything_asked_after_login_is_answered(client):
    """In the order in which the clients ask."""
    assert client.ask(0x0210, field(1, 0) + field(2, 0))["user_id"] == client.user
    users = client.ask(0x0208, field(1, client.user) + field(2, 0))
    assert users["user_id"] == client.user and users["latest"] > 0
    assert client.user in [user["user_id"] for user in users["users"]]
    sessions = client.ask(0x0201, field(1, 0) + field(2, 0))["sessions"]
    assert all(session["latest_id"] > 0 for session in sessions), sessions
    groups = client.ask(0x0401, field(1, 0))["groups"]
    wanted = b"".join(
        field(2, field(1, group["group_id"]) + field(2, 0)) for group in groups
    )
    infos = client.ask(0x0403, field(1, 0) + wanted)["groups"]
    assert {info["group_id"] for info in infos} == {group["group_id"] for group in groups}
    assert all(client.user in info["members"] for info in infos), infos
    client.unread(0)
    assert client.ask(0x0509, field(1, 0), answer=0x050A)["user_id"] == client.user
    ids = [user["user_id"] for user in users["users"]][:300]
    stats = client.ask(0x020A, field(1, 0) + b"".join(field(2, user) for user in ids))["stats"]
    assert sorted(stat["user_id"] for stat in stats) == sorted(ids), stats


# The file service refuses; only its form matters here.
wire.MESSAGES[0x050A] = "user_id:1:u files:2:b*"


def they_chat(anna, ben, phone):
    """Both directions; the phone is ben's other device."""
    head = anna.latest(ben.user)
    assert ben.latest(anna.user) == head, "both sides see one history"
    before = ben.unread(anna.user)
    texts = [text for text, _ in wire.VECTORS if text] + ["&$#@~^@[{:http://h/1.png:}]&$~@#@"]
    for index, text in enumerate(texts):
        sender, receiver = (anna, ben) if index % 2 == 0 else (ben, anna)
        # The author that the body names means nothing.
        msg_id = sender.say(receiver.user, text, author=[0, 4711][index % 2])
        head += 1
        assert msg_id == head, f"{msg_id} after {head - 1}"
        receiver.hears(sender.user, text, msg_id, receiver.user)
        phone.hears(sender.user, text, msg_id, receiver.user)
    for who, peer in ((anna, ben), (ben, anna), (phone, anna)):
        page = who.history(peer.user, len(texts))
        assert [message["msg_id"] for message in page] == list(
            range(head, head - len(texts), -1)
        ), page
        assert [decrypt(message["data"]) for message in reversed(page)] == texts
        authors = [message["author"] for message in reversed(page)]
        assert authors == [[anna.user, ben.user][at % 2] for at in range(len(texts))]
    theirs = sum(1 for at in range(len(texts)) if at % 2 == 0)
    assert ben.unread(anna.user) == before + theirs, "own messages are not unread, others are"
    return head


def reading_clears_the_count(anna, ben, phone, head):
    for text in ("one", "two", "three"):
        head += 1
        assert anna.say(ben.user, text) == head
        for device in (ben, phone):
            device.hears(anna.user, text, head, ben.user)
    before = ben.unread(anna.user)
    assert before >= 3
    # What Windows does with an unread session, seq included.
    page = ben.history(anna.user, min(before, 100), begin=head, seq=0xFF03)
    assert [decrypt(message["data"]) for message in page[:3]] == ["three", "two", "one"]
    read = field(1, 0) + field(2, anna.user) + field(3, head) + field(4, SINGLE)
    phone.send(0x0303, read)
    notice = ben.pushed(0x0304)
    assert notice == {"user_id": ben.user, "session_id": anna.user, "msg_id": head, "type": SINGLE}
    assert ben.unread(anna.user) == 0 and phone.unread(anna.user) == 0
    # Nothing changed, so nobody is told again: Android answers each notice with a mark.
    ben.send(0x0303, read)
    phone.nothing_pushed(0x0304)
    anna.nothing_pushed(0x0304)
    return head


def a_repeat_is_recognised(anna, ben, phone, head):
    """Windows sends a message again after 6 s without an ack: same seq, same body."""
    # One ack for both: another would be a frame that nobody waits for.
    first = anna.say(ben.user, "say it once", seq=777, times=2)
    assert first == head + 1
    assert anna.latest(ben.user) == first
    # What was acknowledged is not repeated: some clients give every frame one number.
    second = anna.say(ben.user, "say it once", seq=777)
    assert second == first + 1
    for device in (ben, phone):
        for msg_id in (first, second):
            device.hears(anna.user, "say it once", msg_id, ben.user)
        device.nothing_pushed(0x0301)
    return second


def voice_is_passed_through(anna, ben, phone, head):
    voice = struct.pack(">I", 3) + bytes(range(256))
    msg_id = anna.say_data(ben.user, voice, SINGLE_VOICE)
    assert msg_id == head + 1
    for device in (ben, phone):
        pushed = device.pushed(0x0301, lambda message: message["msg_id"] == msg_id)
        assert pushed["data"] == voice and pushed["type"] == SINGLE_VOICE
    assert ben.history(anna.user, 1)[0]["data"] == voice
    by_id = field(1, 0) + field(2, SINGLE) + field(3, anna.user) + field(4, msg_id)
    assert ben.ask(0x030D, by_id)["messages"][0]["data"] == voice
    unread = ben.ask(0x0307, field(1, 0))["sessions"]
    shown = next(entry["latest_data"] for entry in unread if entry["id"] == anna.user)
    assert decrypt(shown) == "[语音]"


def the_group_hears(anna, ben, phone, group):
    head = anna.latest(group, GROUP)
    for sender, others in ((anna, (ben, phone)), (ben, (anna, phone))):
        text = f"to all, from {sender.user}"
        head += 1
        assert sender.say(group, text, GROUP_TEXT) == head
        for other in others:
            other.hears(sender.user, text, head, group)
        sender.nothing_pushed(0x0301)
    page = phone.history(group, 2, kind=GROUP)
    assert [message["author"] for message in page] == [ben.user, anna.user]


def main(url, first, second, password, group):
    wire.check_vectors()
    here, there = two_gateways(url)
    wrong_passwords_are_refused(here, first)
    anna, ben, phone = Client(here, WINDOWS), Client(there, MAC), Client(here, ANDROID)
    for client, name in ((anna, first), (ben, second), (phone, second)):
        assert client.log_in(name, password)["result"] == 0, name
    phone.pushed(0x020E, lambda message: message["stat"] == 1)
    for client in (anna, ben, phone):
        everything_asked_after_login_is_answered(client)
        assert client.ask(0x0701, answer=0x0701, seq=0 if client is anna else None) == {}
    head = they_chat(anna, ben, phone)
    head = reading_clears_the_count(anna, ben, phone, head)
    head = a_repeat_is_recognised(anna, ben, phone, head)
    voice_is_passed_through(anna, ben, phone, head)
    the_group_hears(anna, ben, phone, group)
    assert ben.ask(0x0105)["result"] == 0
    ben.closed()
    anna.pushed(0x0203, lambda message: message["stat"] == {"user_id": ben.user, "status": 2})
    phone.pushed(0x020E, lambda message: message["stat"] == 2)
    for client in (anna, phone):
        assert client.ask(0x0105)["result"] == 0
        client.closed()
    print(f"ok: {first} at {here} and {second} at {there} chatted as the protocol says")


if __name__ == "__main__":
    _, login, one, two, secret, everyone = sys.argv
    main(login, one, two, secret, int(everyone))
