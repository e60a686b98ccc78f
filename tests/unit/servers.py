"""A local HTTP server that a test scripts, and the list of what it was asked."""

from __future__ import annotations

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from urllib.parse import parse_qsl, urlsplit


class Server(ThreadingHTTPServer):
    """Takes the connections of a whole thread pool at once: the default backlog of 5 stalls or resets some of them."""

    request_queue_size = 128


@contextmanager
def serve(script):
    """Serve `script(method, path, given) -> (status, body)` on a free port; give its url and what it was `asked`.

    `given` is the query, or the JSON body of a POST. A body that is no string is sent as JSON.
    """
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def answer(self):
            parts = urlsplit(self.path)
            given = dict(parse_qsl(parts.query))
            if self.command == "POST":
                given = json.loads(self.rfile.read(int(self.headers["Content-Length"])) or "{}")
            asked.append((self.command, parts.path, given))
            status, body = script(self.command, parts.path, given)
            data = (body if isinstance(body, str) else json.dumps(body)).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = answer

        def log_message(self, *args):
            pass

    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield SimpleNamespace(url=f"http://127.0.0.1:{server.server_port}", asked=asked)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
