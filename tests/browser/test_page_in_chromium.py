"""The page as people meet it: on a phone and on a desktop, in light and dark, by mouse and by keyboard."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

RUN = "/runs/0a1b2c3d-0000-8000-8000-000000000001"
WAITS = "/flows/staff-onboarding-with-a-very-long-name-that-must-wrap"
PAGES = {
    "overview": "/",
    "flow": "/flows/order-to-invoice",
    "long-name": WAITS,
    "incidents": "/incidents",
    "tasks": "/tasks",
    "runs": "/runs?state=failed",
    "run": RUN,
    "wrong": "/runs/nobody",
}
SCREENS = {"phone": (360, 740, True), "desktop": (1280, 900, False)}

# The narrowest ratio of text to what is behind it, over all elements with text of their own: WCAG asks for 4.5.
CONTRAST = """
const rgb = text => text.match(/[0-9.]+/g).map(Number);
const light = ([r, g, b]) => [r, g, b].map(v => v / 255).map(v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
  .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
const behind = one => {
  for (; one; one = one.parentElement) {
    const found = rgb(getComputedStyle(one).backgroundColor);
    if (found.length === 3 || found[3] === 1) return found;
  }
  return [255, 255, 255];
};
return [...document.body.querySelectorAll('*')]
  .filter(one => [...one.childNodes].some(node => node.nodeType === 3 && node.data.trim()) && one.checkVisibility()
    && !one.closest('svg') && one.tagName !== 'OPTION')
  .map(one => {
    const [a, b] = [light(rgb(getComputedStyle(one).color)), light(behind(one))].sort((x, y) => y - x);
    return [(a + .05) / (b + .05), one.tagName + '.' + one.className + ': ' + one.textContent.trim().slice(0, 40)];
  })
  .filter(([ratio]) => ratio < 4.5);
"""
# Links and controls that are smaller than a finger (44 px in height), unless they stand in a sentence or beside a value.
SMALL = """
return [...document.querySelectorAll('a, button, input, select')]
  .filter(one => one.checkVisibility() && !one.closest('.skip, p:not(.label), dd, td, th'))
  .filter(one => { const box = one.getBoundingClientRect(); return box.height < 43.5 || box.width < 24; })
  .map(one => one.outerHTML.slice(0, 80));
"""


@pytest.mark.parametrize("screen", SCREENS)
@pytest.mark.parametrize("name", PAGES)
def test_it_fits_the_screen_and_nothing_is_refused(
    window: Any, name: str, screen: str, keep: Callable[[str], Path]
) -> None:
    width, height, phone = SCREENS[screen]
    window.size(width, height, phone=phone)
    window.open(PAGES[name])
    assert window.ask("return innerWidth") == width
    shown, needed = window.ask("return [document.documentElement.clientWidth, document.documentElement.scrollWidth]")
    assert needed <= shown, "it scrolls to the side"
    refused = [one for one in window.complaints() if name != "wrong" or "404" not in one]
    assert refused == []
    window.picture(keep(f"{name}-{screen}"))


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", PAGES)
def test_every_text_can_be_read(window: Any, name: str, scheme: str, keep: Callable[[str], Path]) -> None:
    window.scheme(scheme)
    window.open(PAGES[name])
    assert window.ask(CONTRAST) == []
    window.picture(keep(f"{name}-{scheme}"))


@pytest.mark.parametrize("name", PAGES)
def test_a_finger_hits_what_it_means(window: Any, name: str) -> None:
    window.size(360, 740, phone=True)
    window.open(PAGES[name])
    assert window.ask(SMALL) == []


@pytest.mark.parametrize("name", PAGES)
def test_a_reader_of_the_screen_finds_its_way(window: Any, name: str) -> None:
    window.open(PAGES[name])
    assert window.ask("return document.documentElement.lang") == "en"
    for landmark in ("header", "nav", "main", "footer", "h1", "main h1"):
        assert window.driver.find_elements(By.CSS_SELECTOR, landmark), landmark
    assert len(window.driver.find_elements(By.CSS_SELECTOR, "main, h1")) == 2
    levels = [int(one.tag_name[1]) for one in window.driver.find_elements(By.CSS_SELECTOR, "h1, h2, h3, h4")]
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in pairwise(levels)), levels
    unnamed = "return [...document.querySelectorAll('nav, form, section, aside')]"
    unnamed += ".filter(one => !one.ariaLabel && !one.getAttribute('aria-labelledby')).map(one => one.outerHTML)"
    assert [one for one in window.ask(unnamed) if 'class="wrong"' not in one] == []
    fields = "return [...document.querySelectorAll('input, select')].filter(one => !one.labels.length).length"
    assert window.ask(fields) == 0
    pictures = "return [...document.querySelectorAll('svg:not([aria-hidden])')]"
    assert window.ask(pictures + ".filter(one => one.role !== 'img' || !one.querySelector('title').textContent)") == []
    signs = window.ask("return [...document.querySelectorAll('.badge')].filter(one => !one.textContent.trim()).length")
    assert signs == 0, "a colour alone says nothing"


def test_every_link_leads_somewhere(window: Any, page: str) -> None:
    found, todo = {}, ["/"]
    while todo and len(found) < 60:
        path = todo.pop(0)
        window.open(path)
        found[path] = window.ask("return performance.getEntriesByType('navigation')[0].responseStatus")
        for link in window.ask("return [...document.querySelectorAll('a')].map(one => one.href)"):
            if link.startswith(page):
                inside = "/" + link.removeprefix(page).partition("#")[0]
                kind = re.sub(r"(?<=^/runs/)[^/?]+|(?<=after=).*", "*", inside)
                if kind not in {re.sub(r"(?<=^/runs/)[^/?]+|(?<=after=).*", "*", one) for one in (*found, *todo)}:
                    todo.append(inside)
            else:
                assert link.startswith("http://127.0.0.1:16686/trace/"), link
    assert set(found.values()) == {200}, found
    assert {"/", "/incidents", "/tasks", "/runs"} <= set(found)
    assert any(path.startswith("/runs/") for path in found)
    assert window.complaints() == []


def test_it_is_used_by_keyboard_alone(window: Any) -> None:
    window.open("/")
    press(window, Keys.TAB)
    assert focused(window) == "Skip to the content"
    assert window.ask("return document.activeElement.getBoundingClientRect().left") >= 0
    press(window, Keys.ENTER)
    assert window.ask("return document.activeElement.id") == "main"
    window.open("/runs")
    reached = []
    for _ in range(60):
        press(window, Keys.TAB)
        if window.ask("return document.activeElement === document.body"):
            break
        reached.append(focused(window))
        style = window.ask(
            "const s = getComputedStyle(document.activeElement); return [s.outlineStyle, parseFloat(s.outlineWidth)]"
        )
        assert style[0] != "none", f"no ring around {reached[-1]}"
        assert style[1] >= 2, f"no ring around {reached[-1]}"
    for name in ("Handrail", "Flows", "Incidents", "Tasks", "Runs", "Find", "Show"):
        assert name in reached, name
    window.open("/runs")
    with window.leaving():
        window.driver.find_element(By.NAME, "q").send_keys("L-77", Keys.ENTER)
    assert window.path.startswith("/runs/0a1b2c3d")
    assert "Run of L-77" in window.driver.find_element(By.TAG_NAME, "h1").text


def test_the_list_is_narrowed_and_paged_with_the_mouse(window: Any) -> None:
    window.open("/runs")
    rows = lambda: [one.get_attribute("href") for one in window.driver.find_elements(By.CSS_SELECTOR, ".rows a")]  # noqa: E731
    first = rows()
    assert len(first) == 50
    with window.leaving():
        window.driver.find_element(By.LINK_TEXT, "Older").click()
    assert not set(first) & set(rows())
    with window.leaving():
        window.driver.find_element(By.LINK_TEXT, "Newest").click()
    assert rows() == first
    window.driver.find_element(By.CSS_SELECTOR, "select[name=state] option:nth-child(6)").click()
    with window.leaving():
        window.driver.find_element(By.XPATH, "//button[text()='Show']").click()
    assert "state=waiting" in window.path
    assert [one.text for one in window.driver.find_elements(By.CSS_SELECTOR, ".rows .badge")] == ["waiting"]


def test_it_renews_itself_only_when_it_is_asked_to(window: Any) -> None:
    window.open("/")
    assert not window.driver.find_elements(By.CSS_SELECTOR, "meta[http-equiv]")
    with window.leaving():
        window.driver.find_element(By.PARTIAL_LINK_TEXT, "Renew every").click()
    assert window.driver.find_element(By.CSS_SELECTOR, "meta[http-equiv]").get_attribute("content") == "30"
    with window.leaving():
        window.driver.find_element(By.PARTIAL_LINK_TEXT, "Stop renewing").click()
    assert not window.driver.find_elements(By.CSS_SELECTOR, "meta[http-equiv]")


def press(window: Any, key: str) -> None:
    ActionChains(window.driver).send_keys(key).perform()


def focused(window: Any) -> str:
    return str(window.ask("const e = document.activeElement; return (e.textContent || e.name || '').trim()"))
