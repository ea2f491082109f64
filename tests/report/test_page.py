"""The page of a run, opened from disk in a real browser, which is to load nothing else."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("plotly", reason="plotly is not installed")
pytest.importorskip("jinja2", reason="jinja2 is not installed")

from qffs.errors import CheckpointError, DataError, InvalidArgument
from qffs.recipes.recipe import Recipe
from qffs.report import page as pages
from qffs.runs.report import report
from qffs.runs.train import train

STEPS = 6


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short run on digits, with its page."""
    folder = tmp_path_factory.mktemp("runs") / "a <b> & $c$"
    short = {"epochs": 1, "learning_rate": 0.03}
    recipe = Recipe.of({"full_precision": short, "quantized": short, "steps": STEPS, "device": "cpu"})
    train(recipe, folder, progress=False)
    assert report(run=folder, images=40, device="cpu", progress=False) == folder / "report.html"
    return folder


@pytest.fixture(scope="module")
def results(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "results.json").read_text())
    return found


@pytest.fixture(scope="module")
def browser(run: Path) -> Iterator[Any]:
    """Chromium with the page open, which logs what it says and what it asks for."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("chromium and its driver are not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for option in ("headless", "no-sandbox", "disable-background-networking", "window-size=1100,900"):
        options.add_argument(f"--{option}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    with webdriver.Chrome(options=options, service=webdriver.ChromeService(driver)) as opened:
        opened.get((run / "report.html").as_uri())
        yield opened


def text_of(browser: Any, selector: str) -> str:
    shown: str = browser.find_element("css selector", selector).text
    return shown


def test_it_opens_without_a_word_or_a_request(browser: Any, run: Path) -> None:
    assert browser.get_log("browser") == []
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [each["params"]["request"]["url"] for each in messages if each["method"] == "Network.requestWillBeSent"]
    assert (run / "report.html").as_uri() in asked
    assert [url for url in asked if not url.startswith(("file:", "data:", "blob:"))] == []


def test_it_shows_the_numbers_of_the_results(browser: Any, results: dict[str, Any], run: Path) -> None:
    assert text_of(browser, "h1") == "digits_net on digits"
    tiles = text_of(browser, ".tiles")
    last = results["snn"][-1]
    for number in (results["full_precision"]["accuracy"], results["qann"]["accuracy"], last["accuracy"]):
        assert f"{100 * number:.2f} %" in tiles
    assert f"{last['spikes_per_image']:,.0f}" in tiles
    browser.execute_script("document.querySelectorAll('details').forEach(each => each.open = true)")
    numbers = text_of(browser, "#accuracy table")
    for row in results["snn"]:
        spikes = f"{row['spikes_per_image']:,.0f}"
        assert f"{row['steps']} {100 * row['accuracy']:.2f} % {100 * row['agreement']:.2f} % {spikes}" in numbers
    noise = json.loads((run / "noise.json").read_text())
    for remedy in noise["remedies"]:
        assert f"{100 * remedy['output_error']:.2f} %" in text_of(browser, "#noise table")
    energy = json.loads((run / "energy.json").read_text())
    for each in energy["synapses"]:
        assert f"{each['count']:,}" in text_of(browser, "#energy")
    assert "a ReLU becomes a quantizer, then a neuron" in text_of(browser, "#plan")
    assert "a <b> & $c$" in text_of(browser, "#origin")
    assert "model: digits_net" in text_of(browser, "#origin")


@pytest.mark.parametrize("name", ["accuracy", "activity", "noise", "noise-layers", "energy", "operations"])
def test_values_show_under_the_pointer(browser: Any, name: str, results: dict[str, Any]) -> None:
    from selenium.webdriver import ActionChains
    from selenium.webdriver.support.ui import WebDriverWait

    figure = browser.find_element("id", f"figure-{name}")
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", figure)
    marks = figure.find_elements("css selector", ".point, .points path") or [
        figure.find_element("css selector", ".nsewdrag")
    ]
    largest = max(marks, key=lambda mark: float(mark.size["height"]))
    ActionChains(browser).move_to_element(figure.find_element("css selector", ".xtitle")).perform()
    ActionChains(browser).move_to_element(largest).perform()
    shown = WebDriverWait(browser, 5).until(lambda _: figure.find_elements("css selector", ".hoverlayer text"))
    words = " ".join(each.text for each in shown)
    if name == "accuracy":
        assert any(f"{100 * row['accuracy']:.2f} %" in words for row in results["snn"]), words
    assert any(character.isdigit() for character in words), words


def test_in_the_dark_on_a_phone_and_on_paper(browser: Any) -> None:
    from selenium.webdriver.support.ui import WebDriverWait

    ground = "return getComputedStyle(document.body).backgroundColor"
    letters = "return getComputedStyle(document.querySelector('.xtick text')).fill"
    media = "Emulation.setEmulatedMedia"
    browser.execute_cdp_cmd(media, {"features": [{"name": "prefers-color-scheme", "value": "light"}]})
    light = browser.execute_script(ground), browser.execute_script(letters)
    browser.execute_cdp_cmd(media, {"features": [{"name": "prefers-color-scheme", "value": "dark"}]})
    dark = browser.execute_script(ground), browser.execute_script(letters)
    assert [brightness(each) > 400 for each in (*light, *dark)] == [True, False, False, True]
    browser.execute_cdp_cmd(media, {"features": []})
    phone = {"width": 390, "height": 800, "deviceScaleFactor": 1, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", phone)
    width = "return document.documentElement.scrollWidth"
    WebDriverWait(browser, 5).until(lambda _: browser.execute_script(width) <= 390)
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    assert len(browser.execute_cdp_cmd("Page.printToPDF", {})["data"]) > 10_000


def brightness(color: str) -> int:
    """The sum of red, green and blue of ``rgb(r, g, b)``."""
    return sum(map(int, color.removeprefix("rgb(").rstrip(")").split(",")[:3]))


def test_names_that_are_not_utf_8_are_shown_with_question_marks(results: dict[str, Any]) -> None:
    assert "noise a? --steps" in pages.page(pages.PageContents(results, commands=["noise a\udcff --steps"]))


def test_what_cannot_be_reported_is_refused(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CheckpointError, match="holds no results of a run"):
        report(tmp_path)
    (tmp_path / "results.json").write_text("{")
    with pytest.raises(CheckpointError, match="cannot be read"):
        report(tmp_path)
    with pytest.raises(DataError, match=r"none\.zip does not exist; --data says where the images are"):
        report(run, data="cifar10:none.zip")
    monkeypatch.setattr(pages, "check", lambda: (_ for _ in ()).throw(InvalidArgument(pages.MISSING)))
    with pytest.raises(InvalidArgument, match=r"pip install 'qffs\[report\]'"):
        pages.page(pages.PageContents({}))
