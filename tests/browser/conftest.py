"""A headless Chromium before the page of a ledger made by hand. Without Chromium and its driver these tests are skipped."""

from __future__ import annotations

import importlib.util
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from handrail.clock import SystemClock
from handrail.contracts import Contracts
from handrail.recovery.letter import LETTER_BYTES
from handrail.settings import Settings
from handrail_console.ledger import Ledger
from handrail_console.web.bootstrap import application
from handrail_console.web.server import PageServer
from handrail_console.web.settings import PageSettings
from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.support.wait import WebDriverWait

PROJECT = Path(__file__).parents[2]
CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
JAEGER = "http://127.0.0.1:16686"
QUIET = (
    "--headless=new",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-dev-shm-usage",
    "--disable-gpu",
    "--no-first-run",
)


def sibling(name: str) -> Any:
    """Another file of this folder: test folders are no packages."""
    found = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert found is not None
    assert found.loader is not None
    made = importlib.util.module_from_spec(found)
    found.loader.exec_module(made)
    return made


class Window:
    """One Chromium. What a page does wrong is told by `complaints`."""

    def __init__(self, driver: Chrome, url: str) -> None:
        self.driver, self.url = driver, url.rstrip("/")

    def size(self, width: int, height: int, *, phone: bool) -> None:
        """As the device tells it to the page; a window of Chromium has a least width of its own."""
        screen = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": phone}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)

    def scheme(self, name: str) -> None:
        """`light` or `dark`."""
        feature = {"name": "prefers-color-scheme", "value": name}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})

    def open(self, path: str) -> None:
        self.driver.get(self.url + path)

    @contextmanager
    def leaving(self) -> Iterator[None]:
        """What is done in the block leads to another page: the old one may stand for a while after a click or a key."""
        self.ask("window.isOld = true")
        yield
        there = "return !window.isOld && document.readyState === 'complete'"
        WebDriverWait(self.driver, 30, poll_frequency=0.05).until(lambda _: self.ask(there))

    def ask(self, script: str, *given: Any) -> Any:
        return self.driver.execute_script(script, *given)

    @property
    def path(self) -> str:
        return self.driver.current_url.removeprefix(self.url)

    def complaints(self) -> list[str]:
        """What Chromium has written to the console since the last time: errors, refusals of the policy, missing files."""
        return [one["message"] for one in self.driver.get_log("browser")]

    def picture(self, file: Path) -> None:
        """The whole page as PNG."""
        height = self.ask("return document.documentElement.scrollHeight")
        width = self.ask("return document.documentElement.clientWidth")
        self.size(width, min(height, 6000), phone=width < 600)
        file.parent.mkdir(parents=True, exist_ok=True)
        self.driver.save_screenshot(str(file))


@pytest.fixture(scope="session")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a page that runs here."""
    path = tmp_path_factory.mktemp("page") / "ledger.sqlite"
    contracts = Contracts.load(PROJECT / "contracts", max_bytes=LETTER_BYTES)
    with Ledger(path, contracts) as ledger:
        sibling("town").Town(ledger, contracts, time.time_ns() // 1_000_000).fill()
        env = {
            "HANDRAIL_LEDGER": str(path),
            "HANDRAIL_FLOWS": str(PROJECT / "flows"),
            "HANDRAIL_SYSTEMS": str(PROJECT / "systems"),
            "HANDRAIL_JAEGER": JAEGER,
        }
        server = PageServer(
            application(Settings.from_env(env), PageSettings.from_env(env), SystemClock()), "127.0.0.1", 0
        )
        try:
            yield server.url
        finally:
            server.close()


@pytest.fixture(scope="session")
def chromium(page: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Window]:
    binary = next(filter(None, map(shutil.which, CHROMIUM)), None)
    program = shutil.which("chromedriver")
    if binary is None or program is None:
        pytest.skip("no Chromium with its driver here: apt-get install chromium chromium-driver")
    options = ChromeOptions()
    options.binary_location = binary
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    for argument in (*QUIET, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(argument)
    if os.geteuid() == 0:  # Chromium does not start its sandbox as root
        options.add_argument("--no-sandbox")
    driver = Chrome(options=options, service=Service(executable_path=program))
    try:
        driver.set_page_load_timeout(60)
        yield Window(driver, page)
    finally:
        driver.quit()


@pytest.fixture
def window(chromium: Window) -> Window:
    chromium.size(1280, 900, phone=False)
    chromium.scheme("light")
    chromium.complaints()
    return chromium


@pytest.fixture
def keep(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[str], Path]:
    """Where a picture goes: HANDRAIL_PICTURES, for who wants to look, else a folder of the test's own."""
    folder = Path(os.environ.get("HANDRAIL_PICTURES") or tmp_path)
    return lambda name: folder / f"{name}.png"
