"""A headless Chromium for tests of pages, of any width, light or dark, on screen or on paper. It records what a page fetches."""

import base64
import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:  # imported where a browser starts, so that tests without one start fast
    from selenium import webdriver

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
DRIVERS = ("chromedriver",)
FLAGS = (
    "--headless=new",
    "--no-sandbox",  # which root, in a container, cannot have; the pages are the project's own
    "--disable-dev-shm-usage",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
LOCAL = ("file:", "data:", "blob:", "about:")


class Browser:
    """One tab. `driver` is Selenium's, for all that is not here."""

    def __init__(self, driver: "webdriver.Chrome") -> None:
        self.driver = driver

    def look(self, width: int, height: int, *, dark: bool = False, on_paper: bool = False) -> None:
        """Set the size of the screen or paper in CSS pixels. One narrower than 600 is a phone's, which obeys `meta viewport`."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        still = {"name": "prefers-reduced-motion", "value": "reduce"}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print" if on_paper else "", "features": [scheme, still]})

    def go_offline(self) -> None:
        """Let every request to a network fail. It is still recorded, and files can be opened."""
        cut = {"offline": True, "latency": 0, "downloadThroughput": 0, "uploadThroughput": 0}
        self.driver.execute_cdp_cmd("Network.enable", {})
        self.driver.execute_cdp_cmd("Network.emulateNetworkConditions", cut)

    def open(self, url: str) -> None:
        """Load a page to its end, and forget the requests and errors of earlier pages."""
        self.requests()
        self.console_errors()
        self.driver.get(url)

    def run(self, script: str, *arguments: object) -> Any:
        """Return what this JavaScript returns, or what its promise resolves to."""
        return self.driver.execute_script(script, *arguments)

    def wait_for(self, condition: str, seconds: float = 30) -> None:
        """Wait until this JavaScript expression is true."""
        from selenium.webdriver.support.wait import WebDriverWait

        WebDriverWait(self.driver, seconds).until(lambda _: self.run(f"return Boolean({condition})"), f"not so: {condition}")

    def press(self, key: str) -> None:
        """Press a key, or what a name of Selenium's `Keys` stands for, wherever the focus is."""
        from selenium.webdriver.common.action_chains import ActionChains

        ActionChains(self.driver).send_keys(key).perform()

    def requests(self) -> list[str]:
        """Return all addresses that were requested since the last call."""
        events = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        return [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]

    def requests_elsewhere(self) -> list[str]:
        """Return those that lie outside of files and of the page itself."""
        return [url for url in self.requests() if not url.startswith(LOCAL)]

    def console_errors(self) -> list[str]:
        """Return the errors in the console since the last call, exceptions included."""
        return [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] == "SEVERE"]

    def screenshot(self) -> bytes:
        """Return the screen as PNG."""
        return base64.b64decode(self.driver.execute_cdp_cmd("Page.captureScreenshot", {"format": "png"})["data"])

    def pdf(self) -> bytes:
        """Return the page printed on A4."""
        paper = {"paperWidth": 8.27, "paperHeight": 11.69, "preferCSSPageSize": True}
        return base64.b64decode(self.driver.execute_cdp_cmd("Page.printToPDF", paper)["data"])


@contextmanager
def browser(width: int = 1280, height: int = 800, *, dark: bool = False) -> Iterator[Browser]:
    """Start a browser with a profile of its own, and end it."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = _find(BROWSERS)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    service = Service(_find(DRIVERS))  # named, so that Selenium never downloads one
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        for flag in (*FLAGS, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        driver = webdriver.Chrome(options=options, service=service)
        try:
            tab = Browser(driver)
            tab.look(width, height, dark=dark)
            yield tab
        finally:
            driver.quit()


def _find(names: tuple[str, ...]) -> str:
    """Return the first of these programs that is on PATH. Without any, the test fails in one line."""
    for path in filter(None, map(shutil.which, names)):
        return path
    pytest.fail(f"{' or '.join(names)} was not found on PATH; run `make browser`", pytrace=False)
