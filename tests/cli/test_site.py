"""The documentation as a site: built with strict links, and complete without any other host."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from tests.places import ROOT

pytestmark = pytest.mark.slow
LOADS = {
    "script": "src",
    "img": "src",
    "iframe": "src",
    "source": "src",
    "embed": "src",
    "object": "data",
    "use": "href",
}
NOT_LOADED = {"canonical", "next", "prev", "alternate"}  # relations of a <link> that a browser does not follow


class Page(HTMLParser):
    """What a page links to, what it loads on its own, and the names in it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.names: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        self.names |= {found[name] for name in ("id", "name") if name in found}
        if tag == "a" and "href" in found:
            self.links.append(found["href"])
        if tag == "link" and not NOT_LOADED & set(found.get("rel", "").split()):
            self.loads.append(found["href"])
        if tag in LOADS and LOADS[tag] in found:
            self.loads.append(found[LOADS[tag]])
        self.loads += re.findall(r"url\(['\"]?([^'\")]+)", found.get("style", ""))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site as `make docs` builds it: any warning is an error."""
    for name in ("material", "mkdocstrings"):
        pytest.importorskip(name, reason="`make docs` installs what builds the site")
    folder = tmp_path_factory.mktemp("site")
    words = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", folder, "--config-file", "mkdocs.yml"]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Page]:
    """Every page by its file."""
    return {file: Page(file.read_text()) for file in site.rglob("*.html")}


def test_every_link_and_anchor_of_the_built_pages_is_there(pages: dict[Path, Page]) -> None:
    assert len(pages) > 25
    lost = []
    for file, page in pages.items():
        for link in page.links:
            name, _, anchor = unquote(link).partition("#")
            if "://" in name or name.startswith("mailto:") or file.name == "404.html":
                continue
            target = (file.parent / name).resolve() if name else file
            known = pages[target].names if target in pages else set()
            if not target.is_file() or (anchor and target.suffix == ".html" and anchor not in known):
                lost.append(f"{file.name}: {link}")
    assert not lost


def test_nothing_is_loaded_from_elsewhere(site: Path, pages: dict[Path, Page]) -> None:
    foreign = re.compile(r"^(https?:)?//")
    assert not [(file.name, one) for file, page in pages.items() for one in page.loads if foreign.match(one)]
    for style in site.rglob("*.css"):
        assert not re.search(r"(@import|url\()\s*['\"]?(https?:)?//", style.read_text()), style.name


def test_pages_say_what_is_made_of_the_source(site: Path) -> None:
    commands = (site / "commands.html").read_text()
    assert 'id="rgunit-evaluate-translation"' in commands and "--content-weight" in commands
    assert "As plain text" not in commands
    assert "guided.neighbour_style" in (site / "settings.html").read_text()
    interface = (site / "api" / "index_store.html").read_text()
    assert 'id="index_store.store.IndexStore.search"' in interface and "nearest rows of queries" in interface
    assert "Every change is one sealed file" in (site / "architecture.html").read_text()
    assert "Unreleased" in (site / "changes.html").read_text()


def test_the_source_is_no_part_of_the_site(site: Path) -> None:
    assert not [file for file in site.rglob("*") if file.suffix in (".py", ".toml") or file.name == "__pycache__"]


# In a browser


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    """The site over HTTP."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(site))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}/"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_pages_in_a_browser(browser: Any, address: str, width: int, scheme: str) -> None:
    """No script fails, nothing is missing or asked of another host, and no page is wider than the window."""
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    told: list[str] = []
    context.on("weberror", lambda error: told.append(str(error.error)))
    context.on("request", lambda one: told.append(one.url) if not one.url.startswith((address, "data:")) else None)
    context.on("response", lambda one: told.append(f"{one.status} {one.url}") if one.status >= 400 else None)
    page = context.new_page()
    for name in (
        "index",
        "data",
        "guidance",
        "troubleshooting",
        "commands",
        "settings",
        "results",
        "api/rgunit",
        "contributing",
    ):
        page.goto(f"{address}{name}.html", wait_until="load")
        assert page.evaluate("document.documentElement.scrollWidth") <= width, name
        dark = page.evaluate("document.body.dataset.mdColorScheme") == "slate"
        assert dark == (scheme == "dark"), name
    context.close()
    assert not told


@pytest.mark.parametrize("of", ["http", "disk"])
def test_the_search_finds_a_page(browser: Any, site: Path, address: str, of: str) -> None:
    context = browser.new_context()
    page = context.new_page()
    page.goto(f"{address}index.html" if of == "http" else (site / "index.html").as_uri())
    page.click(".md-search__input")
    page.keyboard.type("pictures larger than memory", delay=10)
    page.locator(".md-search-result__link", has_text="Pictures larger than memory").first.wait_for(timeout=20_000)
    context.close()
