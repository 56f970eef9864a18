"""An endpoint of a webhook: prints each event once, as a line of JSON. Python 3, standard library alone.

python3 receiver.py PORT SECRET
"""
import base64, hashlib, hmac, sys, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PORT, SECRET = int(sys.argv[1]), base64.b64decode(sys.argv[2].removeprefix("whsec_"))
seen = set()  # A real one keeps these ids where it keeps what it makes of the events.

class Endpoint(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        name, sent = self.headers["webhook-id"], self.headers["webhook-timestamp"]
        right = hmac.new(SECRET, f"{name}.{sent}.".encode() + body, hashlib.sha256).digest()
        right = "v1," + base64.b64encode(right).decode()
        signatures = self.headers["webhook-signature"].split(" ")
        is_ours = any(hmac.compare_digest(right, signature) for signature in signatures)
        is_ours = is_ours and abs(time.time() - int(sent)) < 300
        if is_ours and name not in seen:
            print(body.decode(), flush=True)
            seen.add(name)
        self.send_response(204 if is_ours else 401)
        self.end_headers()

    def log_message(self, *_line):
        pass

ThreadingHTTPServer(("127.0.0.1", PORT), Endpoint).serve_forever()
