"""The TeamTalk client protocol, written from its description alone: frames, messages, text.

Python 3, standard library only, and nothing of TalkHub's own code: an independent reading of the
protocol, so that a misunderstanding shared by our server and our client library is found.
"""

import base64
import struct

HEADER = struct.Struct(">IHHHHHH")
FRAME_MAX = 409_600

# ---------------------------------------------------------------------------------------------
# Protobuf, by hand.

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5


class Malformed(Exception):
    """The server sent something that an old client could not read."""


def varint(number):
    out = bytearray()
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def field(number, value):
    """One field: an int as varint, bytes or text with their length."""
    if isinstance(value, int):
        return varint(number << 3 | VARINT) + varint(value)
    if isinstance(value, str):
        value = value.encode()
    return varint(number << 3 | BYTES) + varint(len(value)) + value


def read_varint(data, at):
    number = shift = 0
    while True:
        if at >= len(data) or shift > 63:
            raise Malformed("a varint does not end")
        byte = data[at]
        number |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return number, at


def fields(data):
    """Yields (number, wire type, value) of every field."""
    at = 0
    while at < len(data):
        key, at = read_varint(data, at)
        number, wire = key >> 3, key & 7
        if wire == VARINT:
            value, at = read_varint(data, at)
        elif wire == BYTES:
            length, at = read_varint(data, at)
            value, at = data[at : at + length], at + length
            if at > len(data):
                raise Malformed("a field is longer than its message")
        else:
            raise Malformed(f"field {number} has wire type {wire}: no message uses it")
        yield number, wire, value


# What a client must find in each message: `name:number:type`, then `?` optional or `*` repeated;
# types are u(number), s(text), b(bytes), or the name of a message. Written from the tables of the
# protocol's description.
MESSAGES = {
    "UserInfo": "user_id:1:u gender:2:u nick:3:s avatar:4:s department:5:u email:6:s name:7:s"
    " tel:8:s domain:9:s status:10:u sign:11:s?",
    "Session": "id:1:u type:2:u status:3:u updated:4:u latest_id:5:u latest_data:6:b"
    " latest_type:7:u latest_from:8:u",
    "UserStat": "user_id:1:u status:2:u",
    "Unread": "id:1:u type:2:u count:3:u latest_id:4:u latest_data:5:b latest_type:6:u"
    " latest_from:7:u",
    "Msg": "msg_id:1:u author:2:u time:3:u type:4:u data:5:b",
    "GroupVersion": "group_id:1:u version:2:u",
    "Group": "group_id:1:u version:2:u name:3:s avatar:4:s creator:5:u type:6:u shield:7:u"
    " members:8:u*",
    "Department": "id:1:u priority:2:u name:3:s parent:4:u status:5:u",
    0x0104: "time:1:u result:2:u text:3:s online:4:u? user:5:UserInfo?",
    0x0106: "result:1:u",
    0x0107: "user_id:1:u reason:2:u",
    0x0109: "user_id:1:u",
    0x010B: "user_id:1:u result:2:u",
    0x010D: "user_id:1:u result:2:u shield:3:u?",
    0x010F: "user_id:1:u result:2:u shield:3:u?",
    0x0202: "user_id:1:u sessions:2:Session*",
    0x0203: "stat:1:UserStat",
    0x0205: "user_id:1:u users:2:UserInfo*",
    0x0207: "user_id:1:u result:2:u type:3:u id:4:u",
    0x0209: "user_id:1:u latest:2:u users:3:UserInfo*",
    0x020B: "user_id:1:u stats:2:UserStat*",
    0x020D: "user_id:1:u result:2:u",
    0x020E: "user_id:1:u stat:2:u",
    0x020F: "user_id:1:u type:2:u id:3:u",
    0x0211: "user_id:1:u latest:2:u departments:3:Department*",
    0x0212: "user_id:1:u avatar:2:s",
    0x0214: "user_id:1:u result:2:u sign:3:s?",
    0x0215: "user_id:1:u sign:2:s",
    0x0301: "author:1:u to:2:u msg_id:3:u time:4:u type:5:u data:6:b",
    0x0302: "user_id:1:u session_id:2:u msg_id:3:u type:4:u",
    0x0304: "user_id:1:u session_id:2:u msg_id:3:u type:4:u",
    0x0306: "time:1:u",
    0x0308: "user_id:1:u total:2:u sessions:3:Unread*",
    0x030A: "user_id:1:u type:2:u id:3:u begin:4:u messages:5:Msg*",
    0x030C: "user_id:1:u type:2:u id:3:u latest:4:u",
    0x030E: "user_id:1:u type:2:u id:3:u messages:4:Msg*",
    0x0402: "user_id:1:u groups:2:GroupVersion*",
    0x0404: "user_id:1:u groups:2:Group*",
    0x0406: "user_id:1:u result:2:u group_id:3:u? name:4:s members:5:u*",
    0x0408: "user_id:1:u change:2:u result:3:u group_id:4:u current:5:u* changed:6:u*",
    0x040A: "user_id:1:u group_id:2:u result:3:u",
    0x040B: "user_id:1:u change:2:u group_id:3:u current:4:u* changed:5:u*",
    0x0601: "from:1:u to:2:u data:3:s",
    0x0701: "",
}


def decode(name, data):
    """Reads a message strictly, as the oldest parsers do: what is required must be there, repeated
    numbers are unpacked, and there is nothing that the description does not know."""
    shape = {}
    for part in MESSAGES[name].split():
        label, number, kind = part.split(":")
        shape[int(number)] = (label, kind.rstrip("?*"), kind[-1])
    message = {label: [] for label, _, rule in shape.values() if rule == "*"}
    for number, wire, value in fields(data):
        if number not in shape:
            raise Malformed(f"{name}: field {number} is not for old clients")
        label, kind, rule = shape[number]
        if (wire == VARINT) != (kind == "u"):
            raise Malformed(f"{name}.{label}: wire type {wire} (packed numbers?)")
        if kind == "s":
            value = value.decode()
        elif kind not in "ub":
            value = decode(kind, value)
        if rule == "*":
            message[label].append(value)
        else:
            message[label] = value
    for label, _, rule in shape.values():
        if rule not in "?*" and label not in message:
            raise Malformed(f"{name}: {label} is required")
    return message


# ---------------------------------------------------------------------------------------------
# AES-256, one block at a time (the protocol uses ECB).


def _tables():
    inverse = [0] * 256
    exp, log, value = [0] * 256, [0] * 256, 1
    for power in range(255):
        exp[power], log[value] = value, power
        value ^= value << 1 ^ (0x11B if value & 0x80 else 0)  # times 3
    for number in range(1, 256):
        inverse[number] = exp[(255 - log[number]) % 255]
    rotate = lambda byte, by: (byte << by | byte >> 8 - by) & 0xFF
    box = [0] * 256
    for number in range(256):
        byte = inverse[number]
        box[number] = byte ^ rotate(byte, 1) ^ rotate(byte, 2) ^ rotate(byte, 3) ^ rotate(byte, 4) ^ 0x63
    unbox = [0] * 256
    for number, byte in enumerate(box):
        unbox[byte] = number
    return box, unbox


BOX, UNBOX = _tables()


def _times(a, b):
    product = 0
    while b:
        if b & 1:
            product ^= a
        a = a << 1 ^ (0x11B if a & 0x80 else 0)
        b >>= 1
    return product


def _round_keys(key):
    words = [list(key[at : at + 4]) for at in range(0, 32, 4)]
    constant = 1
    for index in range(8, 60):
        word = list(words[-1])
        if index % 8 == 0:
            word = [BOX[byte] for byte in word[1:] + word[:1]]
            word[0] ^= constant
            constant = _times(constant, 2)
        elif index % 8 == 4:
            word = [BOX[byte] for byte in word]
        words.append([a ^ b for a, b in zip(words[-8], word)])
    return [sum(words[at : at + 4], []) for at in range(0, 60, 4)]


KEYS = _round_keys(b"12345678901234567890123456789012")
SHIFTED = [(at + at % 4 * 4) % 16 for at in range(16)]  # where the byte of each place comes from
UNSHIFTED = [(at - at % 4 * 4) % 16 for at in range(16)]


def _mix(state, factors):
    out = []
    for column in range(0, 16, 4):
        for row in range(4):
            byte = 0
            for at in range(4):
                byte ^= _times(state[column + at], factors[(at - row) % 4])
            out.append(byte)
    return out


def _xor(a, b):
    return [x ^ y for x, y in zip(a, b)]


def encrypt_block(block):
    state = _xor(block, KEYS[0])
    for number in range(1, 15):
        state = [BOX[state[SHIFTED[at]]] for at in range(16)]
        if number < 14:
            state = _mix(state, (2, 3, 1, 1))
        state = _xor(state, KEYS[number])
    return bytes(state)


def decrypt_block(block):
    state = _xor(block, KEYS[14])
    for number in range(13, -1, -1):
        state = [UNBOX[state[UNSHIFTED[at]]] for at in range(16)]
        state = _xor(state, KEYS[number])
        if number > 0:
            state = _mix(state, (14, 11, 13, 9))
    return bytes(state)


# ---------------------------------------------------------------------------------------------
# Text as clients encrypt it.


def encrypt(text):
    data = text.encode()
    blocks = -(-len(data) // 16)
    if len(data) % 16 == 0 or len(data) % 16 > 12:
        blocks += 1
    padded = data + bytes(blocks * 16 - 4 - len(data)) + struct.pack(">I", len(data))
    cipher = b"".join(encrypt_block(padded[at : at + 16]) for at in range(0, len(padded), 16))
    return base64.b64encode(cipher)


def decrypt(data):
    cipher = base64.b64decode(data)
    if not cipher or len(cipher) % 16:
        raise Malformed("no whole blocks of text: iOS would crash on this")
    plain = b"".join(decrypt_block(cipher[at : at + 16]) for at in range(0, len(cipher), 16))
    length = struct.unpack(">I", plain[-4:])[0]
    if length > len(plain) - 4:
        raise Malformed("the length of a text is out of range")
    return plain[:length].decode()


VECTORS = [
    ("", "e5RnnlJkv4QGnGhkMwfvgA=="),
    ("a", "8+lyaGSNdKxdsEEADyYxvw=="),
    ("hello", "nnZSBwfPCz60q69ddmfIJA=="),
    ("[语音]", "QhGXlpFjvMFUNrtl1aaPzA=="),
    ("hello 你好", "t5ify+ybA+7JaN5pD298Jg=="),
    ("123456789012", "qRbX2o2N6/0vxpOpQhCOOg=="),
    ("1234567890123", "ovYKzOY+0lEFsnZlqUWIQAr+GZ43+2mMfQMFqTsGBjY="),
    ("1234567890123456", "zyFIAqnq8fihaJFqgH9gVAfU6OB7fpsvZh6GP3dYB9g="),
    (
        "&$#@~^@[{:http://h/g0/000/000/1.png:}]&$~@#@",
        "dgjzZcuwYVvgiMtBlzoa8T7aZvsntK2vm/geRk3C/iTL1S0of8yMSlRr/Hd+Xac3",
    ),
]


def check_vectors():
    for text, encrypted in VECTORS:
        assert encrypt(text).decode() == encrypted, text
        assert decrypt(encrypted) == text, encrypted


if __name__ == "__main__":
    check_vectors()
    print("vectors ok")
