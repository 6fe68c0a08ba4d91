"""Logging in to the admin pages: keys, cookies, tokens of forms, limits of attempts, the audit log. A real server that asks for keys."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium.webdriver import Chrome

from tests.browser.admin import AdminPages
from tests.support.access import KNOWN_SECONDS, loadsplit
from tests.support.admin import Pages, text_of, words
from tests.support.client import Client
from tests.support.running import Running, serve
from tests.support.shop import write_workflow
from tests.support.waiting import wait_until_sync


class Guarded:
    """A server that asks for keys, and an operator who makes them."""

    def __init__(self, server: Running, folder: Path) -> None:
        self.url = server.url
        env = {"LOADSPLIT_DATA_DIR": str(folder / "data")}
        first = loadsplit("keys", "create", "--tenant", "*", "--scopes", "admin", env=env, cwd=folder)
        self.operator, self._operator = first, Client(self.url, first)
        wait_until_sync(lambda: self._operator.call("GET", "/admin/api/keys").status == 200, "the operator's key is known", 5)

    def key(self, tenant: str = "acme", scope: str = "admin") -> str:
        """A new key."""
        made = self._operator.call("POST", "/admin/api/keys", {"tenant": tenant, "scopes": [scope]})
        return str(made.json["key"])

    def revoke(self, key: str) -> None:
        """Revokes a key."""
        assert self._operator.call("DELETE", f"/admin/api/keys/{key.split('_')[1]}").status == 200


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    folder = tmp_path_factory.mktemp("guarded")
    with serve(write_workflow(folder), folder, {"LOADSPLIT_API_KEYS": "db:", "BUSINESS": "http://127.0.0.1:9"}) as server:
        yield Guarded(server, folder)


@pytest.fixture
def pages(guarded: Guarded) -> Pages:
    """A visitor who has logged in."""
    visitor = Pages(guarded.url)
    visitor.log_in(guarded.key())
    return visitor


def test_a_person_logs_in_makes_a_key_and_logs_out(chromium: Chrome, guarded: Guarded) -> None:
    page = AdminPages(chromium, guarded.url).open("/keys")
    assert page.driver.current_url.endswith("/admin/login?next=%2Fadmin%2Fkeys")
    assert page.faults() == []
    page.fill("#key", "ls_nobody_has_this_key")
    page.press("Log in")
    assert page.find("[role=alert]").text == "the API key is not known"
    page.driver.get_log("browser")  # the browser notes the 401
    page.log_in(guarded.operator)
    assert page.heading == "Overview"
    cookie = next(c for c in page.driver.get_cookies() if c["name"] == "loadsplit_admin")
    assert (cookie["httpOnly"], cookie["sameSite"], cookie["path"]) == (True, "Strict", "/admin")
    page.open("/keys")
    page.fill("#f-name", "the shop's")
    page.press("Make the key")
    made = page.find("#new-key").text
    assert made.startswith("ls_")
    assert Client(guarded.url, made).call("GET", "/api/v1/tasks").status == 200
    assert page.faults() == []
    page.open("/keys")
    assert made not in page.driver.page_source
    page.open("/audit")
    assert "key.create" in page.text
    assert made.split("_")[1] in page.text
    assert made not in page.driver.page_source
    page.press("Log out")
    assert page.heading == "Log in"
    assert page.open("/audit").heading == "Log in"


def test_a_key_without_the_scope_admin_is_refused(guarded: Guarded) -> None:
    visitor = Pages(guarded.url)
    answer = visitor.log_in(guarded.key(scope="query"))
    assert answer.status == 403
    assert "lacks the scope admin" in words(answer)
    assert visitor.get("/sessions").headers["location"] == "/admin/login?next=%2Fadmin%2Fsessions"
    assert visitor.cookies == {}


def test_a_form_needs_its_token_and_its_own_site(guarded: Guarded, pages: Pages) -> None:
    assert pages.post("/keys", token="", tenant="acme").status == 403
    assert pages.post("/keys", token="0" * 64, tenant="acme").status == 403
    other = Pages(guarded.url)
    other.log_in(guarded.key())
    assert pages.post("/keys", token=other.token, tenant="acme").status == 403
    assert pages.post("/logout", headers={"origin": "https://elsewhere.example"}).status == 403
    assert pages.post("/keys", headers={"content-type": "application/json"}, tenant="acme").status == 400
    assert pages.get("/keys").status == 200
    assert pages.post("/logout").headers["location"] == "/admin/login"


def test_a_revoked_key_ends_its_visits(guarded: Guarded) -> None:
    key, visitor = guarded.key(), Pages(guarded.url)
    visitor.log_in(key)
    assert visitor.get("/turns").status == 200
    guarded.revoke(key)
    wait_until_sync(lambda: visitor.get("/turns").status == 303, "the visit has ended", KNOWN_SECONDS)
    assert visitor.get("/live", **{"hx-request": "true"}).headers["hx-redirect"] == "/admin/login"


def test_a_tenants_administrator_sees_and_changes_its_own_things_only(guarded: Guarded, pages: Pages) -> None:
    theirs = guarded.key("other", "query")
    assert Client(guarded.url, theirs).ask("opening hours", "private-1").status == 200
    operator = Pages(guarded.url)
    operator.log_in(guarded.operator)
    assert operator.post("/tenant", tenant="other").status == 303
    assert "private-1" in words(operator.get("/sessions"))
    assert "private-1" not in words(pages.get("/sessions"))
    assert pages.get("/sessions/private-1").status == 404
    found = re.search(r"/turns/(t_[0-9a-f]+)", text_of(operator.get("/turns")))
    assert found is not None
    assert operator.get(f"/turns/{found[1]}").status == 200
    assert pages.get(f"/turns/{found[1]}").status == 404
    assert pages.post("/tenant", tenant="other").status == 403
    assert pages.post("/keys", tenant="other", **{"scope-query": "1"}).status == 403
    assert pages.post("/tenants", tenant="acme", tokens_per_day="5").status == 403
    assert pages.post(f"/keys/{theirs.split('_')[1]}/revoke").status == 404
    assert operator.post("/tenants", tenant="acme", tokens_per_day="5000").status == 303
    assert "tenant.limits" in words(pages.get("/audit"))
    assert "other" not in words(pages.get("/keys"))


def test_changes_through_the_api_are_in_the_log_too(guarded: Guarded) -> None:
    key = guarded.key("acme")
    api = Client(guarded.url, key)
    made = api.call("POST", "/admin/api/keys", {"scopes": ["query"], "name": "made by a script"}).json
    assert api.call("DELETE", f"/admin/api/keys/{made['key_id']}").status == 200
    entries = api.call("GET", "/admin/api/audit?action=key.").json["entries"]
    mine = [(e["via"], e["action"], e["actor"]) for e in entries if e["subject"] == made["key_id"]]
    assert mine == [("api", "key.revoke", f"acme/{key.split('_')[1]}"), ("api", "key.create", f"acme/{key.split('_')[1]}")]
    assert made["key"] not in str(entries)


def test_a_login_goes_on_to_a_page_of_ours_only(guarded: Guarded) -> None:
    others = ("https://elsewhere.example", "//elsewhere.example", "/admin//elsewhere", "/elsewhere", "/admin\\@elsewhere", "/admin/login")
    for wanted in others:
        answer = Pages(guarded.url).get(f"/login?next={wanted.replace(chr(92), '%5C')}")
        assert 'name="next" value="/admin"' in text_of(answer)


def test_nobody_can_try_keys_without_end(guarded: Guarded) -> None:
    visitor = Pages(guarded.url, source="127.0.0.2")
    answers = [visitor.log_in(f"ls_guess_{n}") for n in range(8)]
    assert [a.status for a in answers] == [401] * 5 + [429] * 3
    assert int(answers[-1].headers["retry-after"]) >= 1
    assert "too many attempts" in words(answers[-1])
    assert visitor.log_in(guarded.key()).status == 429
    assert Pages(guarded.url).log_in(guarded.key()).status == 303
    operator = Pages(guarded.url)
    operator.log_in(guarded.operator)
    assert "127.0.0.2" in words(operator.get("/audit?action=login.refused"))
