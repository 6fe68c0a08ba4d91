"""The admin pages in Chromium, in the words of a user, and what must hold of each page for everyone who uses it."""

from __future__ import annotations

from typing import Any

from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from tests.support.waiting import wait_until_sync

# What a screen reader, a keyboard or a strict policy would stumble over; empty where all is well.
FAULTS = """
const faults = [];
const start = (e) => e.outerHTML.slice(0, 120);
const visible = (e) => e.getClientRects().length > 0;
const named = (e) => (e.getAttribute('aria-label') || e.textContent || e.getAttribute('title') || '').trim();
const one = (selector, least = 1) => {
  const n = document.querySelectorAll(selector).length;
  if (n !== least) faults.push(`${n} of ${selector}`);
};
one('h1'); one('main'); one('header.top'); one('html[lang]'); one('a.skip[href="#main"]');
if (!document.title.includes('loadsplit')) faults.push('title');
if (document.querySelector('nav')) one('nav[aria-label] a[aria-current=page]', document.querySelector('nav a[aria-current]') ? 1 : 0);
for (const e of document.querySelectorAll('input:not([type=hidden]), select, textarea')) {
  if (!e.labels?.length && !e.getAttribute('aria-label')) faults.push('no label: ' + start(e));
}
for (const e of document.querySelectorAll('a, button, summary')) if (visible(e) && !named(e)) faults.push('no name: ' + start(e));
for (const e of document.querySelectorAll('table')) {
  if (!e.caption) faults.push('no caption');
  if (e.querySelector('thead th:not([scope]), tbody th:not([scope])')) faults.push('no scope: ' + e.caption?.textContent);
}
for (const e of document.querySelectorAll('svg.chart')) {
  const told = e.closest('[aria-hidden]') || (e.getAttribute('role') === 'img' && e.getAttribute('aria-label'));
  if (!told) faults.push('chart without words');
}
for (const e of document.querySelectorAll('[style], [onclick], script:not([src]), style')) faults.push('inline: ' + start(e));
const ids = [...document.querySelectorAll('[id]')].map((e) => e.id);
for (const id of ids) if (ids.indexOf(id) !== ids.lastIndexOf(id)) faults.push('id twice: ' + id);
for (const e of document.querySelectorAll('label[for], [aria-labelledby], [aria-describedby], output[for]')) {
  for (const id of (e.htmlFor?.value ?? e.htmlFor ?? e.getAttribute('aria-labelledby') ?? e.getAttribute('aria-describedby')).split(' ')) {
    if (!document.getElementById(id)) faults.push('points to nothing: ' + id);
  }
}
const levels = [...document.querySelectorAll('h1, h2, h3')].map((e) => Number(e.tagName[1]));
levels.forEach((n, i) => { if (i && n > levels[i - 1] + 1) faults.push('a heading is left out before h' + n); });
for (const form of document.querySelectorAll('form[method=post]')) {
  if (!form.querySelector('input[name=token]') && !form.action.endsWith('/login')) faults.push('form without token: ' + form.action);
}
if (document.documentElement.scrollWidth > window.innerWidth) faults.push('wider than the window');
return faults;
"""
# Contrast of every text with what is behind it, as WCAG 2.2 counts it; the ones below 4.5.
PALE = """
const rgb = (c) => (c.match(/[\\d.]+/g) || []).map(Number);
const light = ([r, g, b]) => [r, g, b].map((v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
  .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
const ground = (e) => {
  for (; e; e = e.parentElement) {
    const c = rgb(getComputedStyle(e).backgroundColor);
    if (c.length === 3 || c[3] > 0) return c;
  }
  return [255, 255, 255];
};
const pale = [];
for (const e of document.querySelectorAll('main *, nav *, header *')) {
  if (![...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim()) || !e.getClientRects().length || e.closest('svg')) continue;
  const [a, b] = [light(rgb(getComputedStyle(e).color)), light(ground(e))];
  const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  if (ratio < 4.5) pale.push(`${e.tagName}.${e.className} ${ratio.toFixed(2)}: ${e.textContent.trim().slice(0, 30)}`);
}
return pale;
"""
ARRIVED = "return !document.documentElement.dataset.old && document.readyState === 'complete'"
LOADED = "return performance.getEntriesByType('resource').map((entry) => entry.name)"


class AdminPages:
    """The pages of one server in the browser."""

    def __init__(self, driver: Chrome, url: str) -> None:
        self.driver, self.url = driver, url
        driver.set_window_size(1200, 900)
        driver.get(url + "/admin/login")
        driver.delete_all_cookies()
        driver.get_log("browser")  # what an earlier test left behind

    def open(self, path: str = "") -> AdminPages:
        """Goes to a page."""
        self.driver.get(f"{self.url}/admin{path}")
        return self

    def find(self, selector: str) -> Any:
        """The first element that a CSS selector finds."""
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def all(self, selector: str) -> list[Any]:
        """Every one of them."""
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def fill(self, selector: str, text: str) -> None:
        """Types into a field."""
        field = self.find(selector)
        field.clear()
        field.send_keys(text)

    def press(self, text: str) -> None:
        """Presses the button with that text."""
        self.follow(next(button for button in self.all("main button, header button") if button.text == text and button.is_displayed()))

    def click(self, selector: str) -> None:
        """Clicks what leads to another page."""
        self.follow(self.find(selector))

    def follow(self, element: Any) -> None:
        """Clicks, and waits for the page that comes."""
        self.driver.execute_script("document.documentElement.dataset.old = 'yes'")
        element.click()
        wait_until_sync(lambda: self.driver.execute_script(ARRIVED), "another page")

    def log_in(self, key: str) -> None:
        """Fills in the login form."""
        self.open("/login")
        self.fill("#key", key)
        self.press("Log in")

    @property
    def heading(self) -> str:
        """What the page is about."""
        return str(self.find("h1").text)

    @property
    def text(self) -> str:
        """What stands on the page."""
        return str(self.find("main").text)

    def faults(self) -> list[str]:
        """What is wrong with the page for a keyboard, a screen reader or a strict policy, and what the browser complains about."""
        complaints = [str(e["message"]) for e in self.driver.get_log("browser") if e["level"] in ("SEVERE", "WARNING")]
        return [*self.driver.execute_script(FAULTS), *complaints]

    def pale(self) -> list[str]:
        """Text that is hard to read on what is behind it."""
        return list(self.driver.execute_script(PALE))

    def foreign(self) -> list[str]:
        """What the page has loaded from elsewhere."""
        return [name for name in self.driver.execute_script(LOADED) if not name.startswith(self.url + "/")]

    def tab(self) -> Any:
        """Presses Tab; the element that has the focus now."""
        self.driver.switch_to.active_element.send_keys(Keys.TAB)
        return self.driver.switch_to.active_element
