"""The page in Chromium. Whatever a test does, nothing is asked of another host and no script fails (`page`)."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from index_store.images import write_image
from index_store.workspace import Workspace
from tests.cli.serve.conftest import Client, opened_page, serving
from tests.translation.methods.test_mix_match import small as mix_match
from translation.stages import train_translation

TOKEN = "0123456789abcdef"


def chosen(page: Any, box: str, text: str) -> None:
    """Click a switch."""
    page.locator(f"{box} .edit label", has_text=text).first.click()


def test_the_page_loads_from_no_other_host(client: Client, page: Any) -> None:
    page.goto(client.url)
    page.get_by_role("link", name="Collection").click()
    page.locator("#collection .grid img").first.wait_for()
    assert page.title() == f"rgunit: {client.workspace.path.name}"
    assert page.locator("#trouble").is_hidden()


def test_a_search(client: Client, page: Any) -> None:
    page.goto(f"{client.url}/#search?image=3")
    page.locator("#search .grid li").first.wait_for()
    with page.expect_response("**/api/query") as answered:
        chosen(page, "#search", "Blond Hair")
    found = answered.value.json()["neighbours"]
    page.locator("#search .grid .ok, #search .grid .no").first.wait_for()
    assert page.locator("#search .grid li").count() == len(found) > 0
    page.locator("#search .grid li button").nth(1).click()
    page.wait_for_url(f"**/#search?image={found[1]['image_id']}")


@pytest.mark.slow
def test_a_filter_and_its_typo(client: Client, page: Any) -> None:
    page.goto(f"{client.url}/#collection")
    box = page.locator("#collection input[name=where]")
    box.fill("split=test +Glasses")
    box.press("Enter")
    count = len(client.workspace.images("split=test +Glasses"))
    page.locator("#collection .told").filter(has_text=f"{count} image").first.wait_for()
    box.fill("+Glases")
    box.press("Enter")
    page.locator("#trouble").filter(has_text="did you mean Glasses").wait_for()
    page.locator("#collection .grid button").first.click()
    page.get_by_role("button", name="Search from it").click()
    page.wait_for_url("**/#search?image=*")
    page.get_by_label("Only images").fill("split=test")

    def filtered(answer: Any) -> bool:  # the search without the filter may be answered only now
        return answer.url.endswith("/api/query") and "where" in answer.request.post_data_json

    with page.expect_response(filtered) as answered:
        page.get_by_label("Only images").press("Enter")
    assert answered.value.request.post_data_json["where"] == "split=test"


@pytest.mark.slow
def test_translations_side_by_side_and_the_way_between(client: Client, page: Any) -> None:
    page.goto(f"{client.url}/#translate?image=3")
    lanes = page.locator("#translate .lane h3")
    lanes.nth(2).wait_for()
    assert lanes.all_text_contents() == ["unguided", "random", "guided"]
    assert page.locator("#translate .lane").nth(2).locator("figure").count() > 4  # source, samples, mask, neighbours
    with page.expect_response("**/api/translate"):
        page.locator("#translate input[name=guidance]").press("ArrowLeft")
    page.locator("#translate .lane").nth(2).wait_for()
    page.wait_for_load_state("networkidle")  # what the slider asked for is drawn
    page.locator("#between summary").press("Enter")
    # Events instead of clicks: here Playwright takes what was just unfolded for hidden, though it is shown.
    with page.expect_response("**/api/interpolate"):
        page.locator("#between .edit label", has_text="Black Hair").first.dispatch_event("click")
    page.locator("#between .strip img").nth(5).wait_for(state="attached")
    with page.expect_download() as got:
        page.locator("#between .strip a").first.dispatch_event("click")
    assert Path(got.value.path()).read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_a_run_with_an_encoder_a_domain(template: Path, tmp_path: Path, page: Any) -> None:
    shutil.copytree(template, tmp_path / "own")
    with Workspace.open(tmp_path / "own") as workspace:
        run = train_translation(workspace, mix_match("translation.steps=1"), device="cpu").run
        unlabelled = int(workspace.images("origin=unlabelled").ids[0])
        with serving(workspace) as client:
            page.goto(f"{client.url}/#translate?image={unlabelled}")
            box = page.locator("#translate")
            box.locator("select[name=run]").select_option(run.id)
            page.locator("#trouble").filter(has_text="name it by source").wait_for()
            assert box.locator("input[name=samples]").is_hidden() and box.locator(".picture.style").is_hidden()
            with page.expect_response("**/api/translate") as answered:
                box.locator("select[name=source]").select_option("Blond_Hair")
            assert answered.value.request.post_data_json["source"] == "Blond_Hair" and answered.value.status == 200
            box.locator(".lane img").nth(1).wait_for()


@pytest.mark.slow
def test_uploads(client: Client, page: Any, tmp_path: Path) -> None:
    page.goto(f"{client.url}/#search?image=3")
    page.locator("#search .grid li").first.wait_for()
    (tmp_path / "no.png").write_bytes(b"this is text")
    page.locator("#search .picture input[type=file]").first.set_input_files(tmp_path / "no.png")
    page.locator("#trouble").filter(has_text="not an image").wait_for()
    write_image(tmp_path / "yes.png", np.random.default_rng(0).integers(0, 255, (1800, 1500, 3), np.uint8))
    with page.expect_response("**/api/query") as answered:  # of 8 MB: it is made smaller before it is sent
        page.locator("#search .picture input[type=file]").first.set_input_files(tmp_path / "yes.png")
    assert answered.value.status == 200 and len(answered.value.request.post_data) < 2**21
    page.locator("#search .picture canvas").wait_for()
    assert page.locator("#trouble").is_hidden()


@pytest.mark.slow
def test_two_tabs_at_once(client: Client, browser: Any) -> None:
    with opened_page(browser) as one:
        other = one.context.new_page()
        for tab, number in ((one, 3), (other, 5)):
            tab.goto(f"{client.url}/#translate?image={number}")
        for tab in (one, other):
            tab.locator("#translate .lane").nth(2).wait_for()
        for tab, number in ((one, 3), (other, 5)):
            assert f"/api/images/{number}?" in tab.locator("#translate .shown img").first.get_attribute("src")


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_a_phone_nothing_is_wider_than_the_window(client: Client, browser: Any, scheme: str) -> None:
    with opened_page(browser, viewport={"width": 360, "height": 740}, color_scheme=scheme, has_touch=True) as page:
        for part in ("search?image=3", "translate?image=3", "collection", "runs?run=r3", "blind", "api"):
            page.goto(f"{client.url}/#{part}")
            page.wait_for_load_state("networkidle")
            assert page.evaluate("document.documentElement.scrollWidth") <= 360, part
        ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (min(map(int, ground[4:-1].split(", "))) > 128) == (scheme == "light")


@pytest.mark.slow
def test_by_keyboard(client: Client, page: Any) -> None:
    page.goto(f"{client.url}/#search?image=3")
    page.locator("#search .grid li").first.wait_for()
    page.locator("#search .edit input").first.focus()
    with page.expect_response("**/api/query") as answered:
        page.keyboard.press("ArrowRight")
    assert answered.value.request.post_data_json["to"] == "+Black_Hair"
    page.locator("#search .grid li button").first.focus()
    page.keyboard.press("Enter")
    page.wait_for_url("**/#search?image=*")


@pytest.mark.slow
def test_runs_duplicates_and_map(own_client: Client, page: Any) -> None:
    page.goto(f"{own_client.url}/#runs?run=r1")
    page.locator("#run svg.chart").first.wait_for()
    page.goto(f"{own_client.url}/#collection")
    page.get_by_role("button", name="Near-duplicates").click()
    page.locator("#collection .told").filter(has_text="near-duplicate").wait_for()
    page.get_by_role("button", name="Map", exact=True).click()
    page.frame_locator("iframe[title='Map of the collection']").locator("canvas").first.wait_for()


@pytest.mark.slow
def test_a_blind_choice(client: Client, page: Any, tmp_path: Path) -> None:
    page.goto(f"{client.url}/#blind")
    page.locator("#blind input[name=pairs]").fill("4")
    page.get_by_role("button", name="Make a comparison").click()
    frame = page.frame_locator("iframe[title='Which is better?']")
    frame.locator("#left").click()
    frame.locator("#left").click()
    with page.expect_download() as got:
        frame.locator("#save").click()
    got.value.save_as(tmp_path / "choices.json")
    assert len(json.loads((tmp_path / "choices.json").read_text())["choices"]) == 2
    page.locator("#choices input").set_input_files(tmp_path / "choices.json")
    page.locator("#preferred").filter(has_text="2 of 4 pairs").wait_for()


@pytest.mark.slow
def test_the_page_asks_for_the_token(guided_template: Path, browser: Any) -> None:
    with (
        Workspace.open(guided_template) as workspace,
        serving(workspace, token=TOKEN) as client,
        opened_page(browser) as page,
    ):
        page.goto(client.url)
        page.wait_for_url("**/login")
        page.get_by_label("Token").fill("a wrong guess")
        page.keyboard.press("Enter")
        page.locator("#trouble").filter(has_text="not the token").wait_for()
        page.get_by_label("Token").fill(TOKEN)
        page.keyboard.press("Enter")
        page.locator("#search .grid li").first.wait_for()
