"""Takes the pictures of docs/admin.md: starts the demo, lets customers talk, and photographs pages in Chromium. Run it from the project's
folder: `.venv/bin/python scripts/admin_pictures.py`.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from selenium.webdriver import Chrome, ChromeOptions  # noqa: E402 - the project's folder must be known first
from selenium.webdriver.chrome.service import Service  # noqa: E402 - as above

from tests.browser.admin import AdminPages  # noqa: E402 - as above
from tests.browser.conftest import FLAGS  # noqa: E402 - as above
from tests.support.client import Client  # noqa: E402 - as above
from tests.support.running import Running  # noqa: E402 - as above
from tests.support.services import find_binary, free_port  # noqa: E402 - as above

PICTURES = ROOT / "docs" / "pictures"
AGENT = "lumen-home"
SAID = (
    "What are your opening hours?", "where is order A1001?", "I want to return order A1002, it arrived damaged", "订单A1005到哪了",
    "do you ship lamps to Norway", "can you ship a lamp to Sweden", "What are your opening hours?", "where is order A1003?",
)  # fmt: skip


def main() -> None:
    """Takes all of them."""
    PICTURES.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        folder, port = Path(name), free_port()
        command = ["serve", "--demo", "--config", "db:", "--port", str(port)]
        with Running(command, folder, port=port, env={"LOADSPLIT_EGRESS_ALLOW": "127.0.0.1"}, ready="/livez") as server:
            _push(server.client, (ROOT / "examples/customer_service/workflow.json").read_text())
            turn_id = _talk(server.client)
            driver = _browser(folder)
            try:
                _photograph(AdminPages(driver, server.url), turn_id)
            finally:
                driver.quit()


def _push(client: Client, text: str) -> None:
    for version, words in enumerate((text, text.replace("9:00", "8:30")), 1):
        put = client.call("PUT", f"/admin/api/agents/{AGENT}/config?note=version%20{version}", raw=words.encode())
        if put.status != 200:
            raise SystemExit(put.body.decode())
    client.call("POST", f"/admin/api/agents/{AGENT}/activate", {"version": 1, "note": "the first"})
    client.call("POST", f"/admin/api/agents/{AGENT}/activate", {"version": 2, "canary_percent": 20, "note": "opens earlier"})


def _talk(client: Client) -> str:
    turn_id = ""
    for number in range(12):
        for message in SAID:
            answer = client.ask(message, f"customer-{number}", user_id=f"user-{number}").json
            if "return" in message:
                turn_id = answer["turn_id"]
    client.ask("talk to a human", "customer-3")
    return turn_id


def _browser(folder: Path) -> Chrome:
    options = ChromeOptions()
    options.binary_location = find_binary("chromium")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    for flag in (*FLAGS, f"--user-data-dir={folder / 'profile'}"):
        options.add_argument(flag)
    return Chrome(options=options, service=Service(executable_path=find_binary("chromedriver")))


def _photograph(pages: AdminPages, turn_id: str) -> None:
    shots = {"overview": "", "turn": f"/turns/{turn_id}", "agent": f"/agents/{AGENT}", "rules": "/rules"}
    for name, path in shots.items():
        pages.open(path)
        pages.driver.save_screenshot(str(PICTURES / f"admin-{name}.png"))
    pages.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": "dark"}]})
    pages.open("/desk/customer-3")
    pages.driver.save_screenshot(str(PICTURES / "admin-desk-dark.png"))


if __name__ == "__main__":
    main()
