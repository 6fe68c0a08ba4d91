"""The admin pages as a browser without scripts sees them: cookies, links, forms with their tokens. It knows no internals."""

from __future__ import annotations

import html
import http.client
import re
from collections.abc import Mapping
from urllib.parse import urlencode, urlsplit

from tests.support.client import Answer

FORM = {"content-type": "application/x-www-form-urlencoded"}


class Pages:
    """One visitor of the pages at a base URL."""

    def __init__(self, url: str, source: str = "127.0.0.1") -> None:
        self.url, self.cookies = url, dict[str, str]()
        self._at, self._source = urlsplit(url), source

    def get(self, path: str = "", **headers: str) -> Answer:
        """One page; the cookies that it sets are kept."""
        return self._call("GET", path, None, headers)

    def post(self, path: str, *, token: str | None = None, headers: dict[str, str] | None = None, **fields: str) -> Answer:
        """Sends a form, with the token of the visitor's last page unless another one is given."""
        body = urlencode({"token": self.token if token is None else token, **fields}).encode()
        return self._call("POST", path, body, {**FORM, **(headers or {})})

    def log_in(self, key: str) -> Answer:
        """Sends the login form."""
        return self.post("/login", token="", key=key)

    @property
    def token(self) -> str:
        """The token of this visitor's forms."""
        found = re.search(r'name="token" value="([0-9a-f]+)"', text_of(self.get()))
        return found[1] if found else ""

    def _sent(self) -> dict[str, str]:
        return {"cookie": "; ".join(f"{name}={value}" for name, value in self.cookies.items())} if self.cookies else {}

    def _call(self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]) -> Answer:
        connection = http.client.HTTPConnection(self._at.hostname or "", self._at.port, timeout=30, source_address=(self._source, 0))
        connection.request(method, f"/admin{path}", body, {**self._sent(), **headers})
        reply = connection.getresponse()
        answer = Answer(reply.status, {k.lower(): v for k, v in reply.getheaders()}, reply.read())
        connection.close()
        for name, value in re.findall(r"(?:^|, )(loadsplit_[a-z_]+)=([^;]*);", answer.headers.get("set-cookie", "")):
            self.cookies[name] = value
            if value in ("", '""'):
                del self.cookies[name]
        return answer


def text_of(answer: Answer) -> str:
    """The page's markup."""
    return answer.body.decode()


def words(answer: Answer) -> str:
    """What the page says, without its markup."""
    return html.unescape(re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", text_of(answer))))
