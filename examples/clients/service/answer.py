"""A small service that asks the model: GET /ask?q=QUESTION gives {"answer": ...}. Standard library only."""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

URL, KEY = os.environ["OPENAI_BASE_URL"], os.environ["OPENAI_API_KEY"]
TIMEOUT = 120  # seconds: a server whose slots are busy lets requests wait


def ask(question: str) -> str:
    """The model's answer. Raises urllib.error.HTTPError, URLError."""
    body = {"messages": [{"role": "user", "content": question}], "temperature": 0, "max_tokens": 128}
    headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
    request = urllib.request.Request(f"{URL}/chat/completions", json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
        text: str = json.load(answer)["choices"][0]["message"]["content"]
        return text


class Handler(BaseHTTPRequestHandler):
    """One request."""

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        if parts.path == "/health":
            return self.reply(200, {})
        question = parse_qs(parts.query).get("q", [""])[0]
        if parts.path != "/ask" or not question:
            return self.reply(404, {"error": "GET /ask?q=QUESTION"})
        try:
            return self.reply(200, {"answer": ask(question)})
        except urllib.error.HTTPError as error:
            return self.reply(502, {"error": f"the model's server says {error.code}"})
        except OSError as error:
            return self.reply(503, {"error": f"the model's server can't be reached: {error}"})

    def reply(self, status: int, document: dict[str, str]) -> None:
        """JSON."""
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


if __name__ == "__main__":
    ThreadingHTTPServer(("", 8000), Handler).serve_forever()
