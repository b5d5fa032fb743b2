"""Chromium without a window, as Debian has it, for tests that open a page in a real browser."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

# Nothing of the browser's own may go out, and nothing is kept: the profile is a test's own folder.
FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--disable-dev-shm-usage", "--host-resolver-rules=MAP * ~NOTFOUND"),
)


@contextlib.contextmanager
def browser(profile: Path) -> Iterator[Any]:
    """A selenium driver. Skips where it or Chromium is not installed, and fails there in CI."""
    programs = shutil.which("chromium"), shutil.which("chromedriver")
    if None in programs or importlib.util.find_spec("selenium") is None:
        absent = "no browser here: apt-get install chromium chromium-driver, pip install '.[dev]'"
        (pytest.fail if os.environ.get("CI") else pytest.skip)(absent)
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = programs[0]
    for flag in (*FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(programs[1]))
    try:
        yield driver
    finally:
        driver.quit()


def resize(driver: Any, width: int, height: int = 900, theme: str = "light") -> None:
    """The size of the page in pixels, as a phone has it below 500, and the user's theme."""
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    feature = {"name": "prefers-color-scheme", "value": theme}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
