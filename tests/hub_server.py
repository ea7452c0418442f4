"""A Hugging Face Hub on this machine, with one dataset: only the requests by which its files are listed and read."""

import json
import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

NAME = "user/books"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    folder: Path

    def log_message(self, *arguments):
        pass

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        path = unquote(urlsplit(self.path).path)
        if re.fullmatch(rf"/api/datasets/{NAME}(/revision/main)?", path):
            return self._json({"id": NAME, "_id": "1", "sha": COMMIT, "private": False, "siblings": [], "tags": []})
        if match := re.fullmatch(rf"/api/datasets/{NAME}/tree/(?:main|{COMMIT})/?(.*)", path):
            return self._tree(match[1])
        if match := re.fullmatch(rf"/datasets/{NAME}/resolve/(?:main|{COMMIT})/(.+)", path):
            return self._file(match[1])
        return self._json({"error": "Repository not found"}, 404, {"X-Error-Code": "RepoNotFound"})

    def do_POST(self):
        self.rfile.read(int(self.headers.get("content-length", 0)))
        self._json({"error": "this server only lists and reads"}, 501)

    def _tree(self, name):
        root = self.folder / name
        if not root.is_dir():
            return self._json({"error": "Entry not found"}, 404, {"X-Error-Code": "EntryNotFound"})
        return self._json([self._entry(path) for path in sorted(root.rglob("*"))])

    def _entry(self, path):
        kind, size = ("directory", 0) if path.is_dir() else ("file", path.stat().st_size)
        return {"type": kind, "oid": "0" * 40, "size": size, "path": path.relative_to(self.folder).as_posix()}

    def _file(self, name):
        path = self.folder / name
        if not path.is_file():
            return self._json({"error": "Entry not found"}, 404, {"X-Error-Code": "EntryNotFound"})
        content, status, headers = path.read_bytes(), 200, {"ETag": '"1"', "X-Repo-Commit": COMMIT}
        if match := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("range", "")):
            first, last = int(match[1]), min(int(match[2] or len(content) - 1), len(content) - 1)
            headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
            content, status = content[first : last + 1], 206
        return self._send(content, status, {**headers, "Accept-Ranges": "bytes"})

    def _json(self, value, status=200, headers=None):
        self._send(json.dumps(value).encode(), status, {"Content-Type": "application/json", **(headers or {})})

    def _send(self, content, status, headers):
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


@contextmanager
def hub(folder):
    """Serve the files below a folder as those of the dataset `NAME`; yield the port."""
    handler = type("Handler", (_Handler,), {"folder": Path(folder)})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
