"""The API answers as the commands do, and says in one line why it does not."""

from __future__ import annotations

import asyncio
import base64
import io
import re
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import rgunit as facade
from index_store.images import write_image
from index_store.workspace import Workspace
from retrieval.reading import GraphReader
from tests.cli.serve.conftest import Client, Reply, serving
from tests.retrieval.colours import make_workspace
from tests.translation.methods.test_mix_match import small as mix_match
from translation.stages import train_translation

FACE = {"image_id": 3}


def pixels(reply: Reply) -> np.ndarray:
    """The picture of an answer."""
    assert (reply.status, reply.headers["content-type"]) == (200, "image/png")
    return np.asarray(Image.open(io.BytesIO(reply.body)))


def upload(array: np.ndarray) -> str:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def test_a_query_is_answered_as_the_command_does(client: Client, rgunit) -> None:
    path = client.workspace.images(ids=[3]).paths[0]
    words = ("--to", "+Blond_Hair", "-k", 5, "--where", "split=train")
    command = rgunit("-w", client.workspace.path, "--json", "--device", "cpu", "query", path, *words).json
    answer = client.post("/api/query", {**FACE, "to": "+Blond_Hair", "k": 5, "where": "split=train"}).json
    assert (answer.pop("run"), answer.pop("method")) == ("r2", "gmm_unit")
    for told, asked in zip(command["neighbours"], answer["neighbours"], strict=True):
        assert asked.pop("url") == f"/api/images/{told['image_id']}"
        del told["path"]
        assert asked.pop("distance") == pytest.approx(told.pop("distance"), rel=1e-4)
        assert asked == told
    assert (answer["target"], answer["labels"]) == (command["target"], "prefer")


def test_an_upload_is_searched_like_a_file_and_the_collections_own_is_known(client: Client) -> None:
    path = Path(client.workspace.images(ids=[3]).paths[0])
    by_id = client.post("/api/query", {**FACE, "k": 4}).json["neighbours"]
    known = client.post("/api/query", {"image": base64.b64encode(path.read_bytes()).decode(), "k": 4}).json
    assert [one["image_id"] for one in known["neighbours"]] == [one["image_id"] for one in by_id]
    assert 3 not in [one["image_id"] for one in by_id]
    foreign = np.asarray(Image.open(path).convert("RGB")) ^ 1
    found = client.post("/api/query", {"image": upload(foreign), "k": 4}).json["neighbours"]
    asked = facade.query(client.workspace.path, foreign, k=4)
    assert [one["image_id"] for one in found] == [one.image_id for one in asked]


def test_a_translation_is_the_commands_with_urls(client: Client) -> None:
    answer = client.post("/api/translate", {**FACE, "to": "+Blond_Hair", "samples": 3}).json
    assert (answer["run"], answer["method"], len(answer["outputs"])) == ("r3", "gmm_unit", 3)
    path = client.workspace.images(ids=[3]).paths[0]
    with facade.Translator.open(client.workspace.path, device="cpu") as translator:
        alone = translator.translate(path, to="+Blond_Hair", samples=3)
    for one, told in zip(alone, answer["outputs"], strict=True):
        assert told["target"] == one.target and told["source"] == {"image_id": 3, "url": "/api/images/3"}
        assert [near["image_id"] for near in told["neighbours"]] == [near["image_id"] for near in one.neighbours]
        assert np.abs(pixels(client.get(told["url"])).astype(int) - one.pixels).max() <= 1
        assert one.mask is not None and pixels(client.get(told["mask"])).shape == one.mask.shape


def test_guidance_may_be_left_out_or_drawn_at_random(client: Client) -> None:
    asked = {**FACE, "to": "+Glasses"}
    none = client.post("/api/translate", {**asked, "guidance": 0}).json["outputs"][0]
    random = client.post("/api/translate", {**asked, "neighbours": "random"}).json["outputs"][0]
    found = client.post("/api/translate", asked).json["outputs"][0]
    assert none["neighbours"] == [] and len(random["neighbours"]) == len(found["neighbours"]) > 0
    assert [one["image_id"] for one in random["neighbours"]] != [one["image_id"] for one in found["neighbours"]]


def test_the_way_between_two_styles_begins_and_ends_with_them(client: Client) -> None:
    ends = ["+Blond_Hair", "+Black_Hair -Glasses"]
    answer = client.post("/api/interpolate", {**FACE, "to": ends, "steps": 4, "guidance": 0}).json
    strip = [pixels(client.get(one["url"])) for one in answer["outputs"]]
    assert len(strip) == 4
    for place, to in ((0, ends[0]), (-1, ends[1])):
        one = client.post("/api/translate", {**FACE, "to": to, "guidance": 0}).json["outputs"][0]
        assert np.abs(pixels(client.get(one["url"])).astype(int) - strip[place]).max() <= 1
        assert answer["outputs"][place]["target"] == one["target"]
    styles = client.post("/api/interpolate", {**FACE, "style_of": [{"image_id": 3}, {"image_id": 4}], "steps": 2})
    assert len(styles.json["outputs"]) == 2


@pytest.mark.parametrize(
    ("path", "body", "status", "told"),
    [
        ("query", {**FACE, "to": "+Blnd_Hair"}, 400, "did you mean Blond_Hair"),
        ("query", {**FACE, "where": "split=tost"}, 400, "did you mean test"),
        ("query", {**FACE, "k": 0}, 400, "k: Input should be greater"),
        ("query", {**FACE, "content_weight": float("nan")}, 400, "content_weight"),
        ("query", {**FACE, "colour": 1}, 400, "colour: Extra inputs"),
        ("query", {"to": "+Hat"}, 400, "give image_id or image"),
        ("query", {"image_id": 10**6}, 404, "no image has id 1000000"),
        ("query", {**FACE, "run": "r77"}, 404, "there is no run 'r77'"),
        ("query", {**FACE, "run": "r1"}, 400, "trained translation, not retrieval"),
        ("query", {"image": "no base64"}, 400, "no base64"),
        ("query", {"image": base64.b64encode(b"GIF89a and no picture").decode()}, 415, "not an image"),
        ("query", {**FACE, "style_of": {"path": "/etc/passwd"}}, 400, "Extra inputs"),
        ("query", {"image_id": "../../etc/passwd"}, 400, "valid integer"),
        ("translate", FACE, 400, "to take the style of"),
        ("translate", {**FACE, "to": "+Hat"}, 400, "cannot be edited"),
        ("translate", {**FACE, "to": "+Glasses", "samples": 99}, 400, "samples"),
        ("translate", {**FACE, "to": "+Glasses", "run": "r2"}, 400, "name a run of stage"),
        ("translate", {**FACE, "to": "+Glasses", "run": "r1", "guidance": 1}, 400, "trained without neighbours"),
        ("interpolate", {**FACE, "to": ["+Glasses"]}, 400, "to"),
        ("interpolate", {**FACE}, 400, "two edits"),
        ("login", {"token": "\ud800"}, 400, "valid string"),
    ],
)
def test_what_cannot_be_done_is_said(
    client: Client, path: str, body: dict[str, object], status: int, told: str
) -> None:
    reply = client.post(f"/api/{path}", body)
    assert (reply.status, told in reply.error) == (status, True), reply.body
    assert str(client.workspace.path) not in reply.error and "--" not in reply.error.split("`")[0]


def test_too_large_is_told_before_it_is_read(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    declared = client.get("/api/query", "POST", b"{}", Content_Type="application/json", Content_Length=str(2**31))
    assert (declared.status, "at most 48 MiB" in declared.error) == (413, True)
    monkeypatch.setattr("cli.serve.answers.UPLOAD_PIXELS", 40 * 40)
    wide = client.post("/api/query", {"image": upload(np.zeros((50, 50, 3), np.uint8))})
    assert (wide.status, "50 x 50 is too large" in wide.error) == (413, True)
    bomb = b"\x89PNG\r\n\x1a\n" + bytes.fromhex("0000000d49484452") + (60_000).to_bytes(4, "big") * 2 + bytes(13)
    assert client.post("/api/query", {"image": base64.b64encode(bomb).decode()}).status in (413, 415)


def test_the_collection_and_its_runs_name_no_place(client: Client) -> None:
    told = [client.get(path) for path in ("/api/collection", "/api/runs", "/api/runs/r3", "/api/images?limit=500")]
    assert [reply.status for reply in told] == [200] * 4
    for reply in told[:2] + told[3:]:
        assert str(client.workspace.path).encode() not in reply.body and b'"path"' not in reply.body
    collection = told[0].json
    assert collection["images"] == len(client.workspace.images()) and collection["labels"]["Glasses"]["unknown"] > 0
    runs = {run["id"]: run for run in told[1].json["runs"]}
    assert [run for run, one in runs.items() if one["default"]] == ["r2", "r3"]
    assert runs["r3"]["groups"] == [["Black_Hair", "Blond_Hair"]] and runs["r3"]["neighbours"] == "retrieved"
    assert told[2].json["curves"] and all(one["svg"].startswith("<svg") for one in told[2].json["curves"])
    assert "style=" not in told[2].json["curves"][0]["svg"]  # the page's policy forbids it


def test_images_are_listed_by_filter_and_page(client: Client) -> None:
    every = client.get("/api/images?where=split%3Dtest%20%2BGlasses&limit=500").json
    assert every["total"] == len(every["images"]) == len(client.workspace.images("split=test +Glasses"))
    part = client.get("/api/images?where=split%3Dtest%20%2BGlasses&offset=1&limit=2").json
    assert part["images"] == every["images"][1:3]
    assert client.get(f"/api/images?offset={2**62}").json["images"] == []
    assert "unknown attribute" in client.get("/api/images?where=%2BNone").error


def test_a_picture_is_sent_again_only_when_it_changed(client: Client) -> None:
    first = client.get("/api/images/3?size=16")
    assert pixels(first).shape == (16, 16, 3)
    again = client.get("/api/images/3?size=16", If_None_Match=first.headers["etag"])
    assert (again.status, again.body) == (304, b"")
    assert client.get("/api/images/3?size=100000").status == 400


@pytest.mark.parametrize(
    "path",
    [
        "/api/images/..%2f..%2fcatalog.db",
        "/static/../app.py",
        "/static/..%2fapp.py",
        "/static/app.py",
        "/api/results/..%2f..%2fx.png",
        "/api/results/nothing.png",
        "/api/runs/..%2f..",
        "/api/runs/r1/samples/7.png",
        "/api/runs/r1/samples/..%2fx.png",
        "/api/blind/..%2fx",
        "/catalog.db",
        "/api/report.html",
    ],
)
def test_no_path_of_a_request_reaches_the_disk(client: Client, path: str) -> None:
    reply = client.get(path)
    assert reply.status in (400, 404) and reply.error


def test_readers_see_what_others_commit_and_what_is_gone(own_client: Client, tmp_path: Path) -> None:
    client = own_client
    before = client.get("/api/collection").json["images"]
    assert client.post("/api/query", {**FACE, "k": 1}).status == 200
    write_image(tmp_path / "more" / "new.png", np.full((32, 32, 3), 77, np.uint8))
    with Workspace.open(client.workspace.path) as other:
        other.add_images(tmp_path / "more", origin="unlabelled")
        number = int(other.images().ids.max())
    assert client.get("/api/collection").json["images"] == before + 1
    assert pixels(client.get(f"/api/images/{number}")).mean() == 77
    assert client.post("/api/query", {"image_id": number, "k": 1}).status == 200
    assert client.post("/api/translate", {"image_id": number, "to": "+Glasses"}).json["outputs"][0]["url"]
    (tmp_path / "more" / "new.png").unlink()
    assert "gone" in client.get(f"/api/images/{number}").error
    assert client.post("/api/query", {"image_id": number}).status == 404
    with Workspace.open(client.workspace.path) as other:
        other.store().remove([number])
    assert client.get(f"/api/images/{number}").status == client.post("/api/query", {"image_id": number}).status == 404


def test_questions_that_come_together_share_a_forward_pass(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    at_once = GraphReader.run

    def slowly(reader: GraphReader, *given: Any) -> Any:
        time.sleep(0.05)  # so that the others have come, however quick this machine is
        return at_once(reader, *given)

    monkeypatch.setattr(GraphReader, "run", slowly)

    def passes() -> tuple[int, int]:
        text = client.get("/metrics").body.decode()
        return tuple(
            int(re.findall(rf"^rgunit_forward_{name}_total (\d+)", text, re.M)[0]) for name in ("passes", "calls")
        )  # type: ignore[return-value]

    alone = {
        n: client.post("/api/query", {"image_id": n, "to": "+Glasses", "k": 3}).json["neighbours"] for n in range(1, 9)
    }
    before = passes()
    gate = threading.Barrier(8)

    def ask(number: int) -> bool:
        gate.wait()
        found = client.post("/api/query", {"image_id": number, "to": "+Glasses", "k": 3}).json["neighbours"]
        return [one["image_id"] for one in found] == [one["image_id"] for one in alone[number]]

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(ask, range(1, 9)))
    after = passes()
    assert after[1] - before[1] > after[0] - before[0] > 0


def test_a_run_with_an_encoder_a_domain_translates_labelled_pictures(template: Path, tmp_path: Path) -> None:
    shutil.copytree(template, tmp_path / "own")
    with Workspace.open(tmp_path / "own") as workspace:
        train_translation(workspace, mix_match("translation.steps=1"), device="cpu")
        blond = int(workspace.images("+Blond_Hair -Black_Hair -Brown_Hair").ids[0])
        with serving(workspace) as client:
            *others, run = client.get("/api/runs").json["runs"]
            assert run["domains"] == run["attributes"] == ["Black_Hair", "Blond_Hair", "Brown_Hair"]
            assert others and not any(one["domains"] for one in others)
            asked = {"image_id": blond, "to": "+Brown_Hair"}
            (made,) = client.post("/api/translate", asked).json["outputs"]
            assert made["target"] == {"Black_Hair": 0, "Blond_Hair": 0, "Brown_Hair": 1}
            assert pixels(client.get(made["url"])).shape == (32, 32, 3)
            asked["image_id"] = int(workspace.images("origin=unlabelled").ids[0])
            assert "name it by source" in client.post("/api/translate", asked).error
            assert client.post("/api/translate", {**asked, "source": "+Blond_Hair"}).status == 200
            ends = {**asked, "to": ["+Brown_Hair", "+Black_Hair"], "source": "Blond_Hair", "steps": 2}
            assert len(client.post("/api/interpolate", ends).json["outputs"]) == 2


def test_a_full_queue_says_when_to_come_again() -> None:
    pytest.importorskip("starlette")
    from cli.serve.gate import Refused
    from cli.serve.workers import Workers

    async def three() -> list[object]:
        workers, free = Workers("test", threads=1, waiting=1), threading.Event()
        asked = [asyncio.create_task(workers.run(free.wait, 10)) for _ in range(3)]
        await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
        free.set()
        told = await asyncio.gather(*asked, return_exceptions=True)
        assert await workers.run(int) == 0 and workers.inside == 0
        workers.close()
        return told

    *done, refused = asyncio.run(three())
    assert done == [True, True] and isinstance(refused, Refused)
    assert (refused.status, refused.headers) == (503, {"Retry-After": "1"})


def test_what_was_made_is_forgotten_by_age_and_size(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("starlette")
    from cli.serve.workers import Shelf

    shelf = Shelf(most=10, seconds=60)
    first, second = shelf.put(b"12345"), shelf.put(b"67890")
    assert (shelf.get(first), shelf.get(second)) == (b"12345", b"67890")
    third = shelf.put(b"x")
    assert (shelf.get(first), shelf.get(third), shelf.bytes) == (None, b"x", 6)
    now = __import__("time").monotonic()
    monkeypatch.setattr("time.monotonic", lambda: now + 61)
    assert shelf.get(third) is None and shelf.bytes == 0


def test_the_document_describes_every_route(client: Client) -> None:
    document = client.get("/openapi.json").json
    asked = {"/api/collection", "/api/images/{number}", "/api/query", "/api/translate", "/api/interpolate", "/api/runs"}
    assert asked | {"/healthz", "/metrics"} <= set(document["paths"])
    for path in document["paths"].values():
        for operation in path.values():
            assert "422" not in operation["responses"] and operation["summary"]
    assert document["components"]["schemas"]["QueryAsked"]["additionalProperties"] is False
    assert client.get("/healthz").json == {"status": "ok", "ready": True}
    metrics = client.get("/metrics").body.decode()
    assert re.search(r'rgunit_requests_total\{route="/healthz",status="200"\} \d+', metrics)
    assert 'le="+Inf"' in metrics and "rgunit_images " in metrics


def test_near_duplicates_and_the_map(own_client: Client) -> None:
    found = own_client.get("/api/duplicates?distance=6").json
    assert found["images"] == len(own_client.workspace.images("origin=real|unlabelled"))
    drawn = own_client.get("/api/map.html?by=style&images=40")
    assert drawn.status == 200 and b"<html" in drawn.body
    assert drawn.headers["content-security-policy"].startswith("sandbox allow-scripts")


def test_what_another_process_forgets_is_gone_from_a_running_server(own_client: Client, process) -> None:
    path = own_client.workspace.path
    asked = {"image_id": 3, "to": "+Glasses", "guidance": 0}
    made = own_client.post("/api/translate", asked).json["outputs"][0]["url"]
    near = own_client.post("/api/query", {"image_id": 4, "k": 100}).json["neighbours"]
    assert 3 in [one["image_id"] for one in near] and own_client.get("/api/images/3").status == 200
    done = process("-w", path, "index", "remove", "--id", 3, "--forget", "--json")
    assert done.status == 0 and done.json["removed"] >= 1 and done.json["learned"] == ["r1", "r2", "r3"], done.err
    for url in ("/api/images/3", "/api/images/3?size=32", made):
        assert own_client.get(url).status == 404
    assert own_client.post("/api/query", asked | {"guidance": None} | {"to": None}).status in (400, 404)
    found = own_client.post("/api/query", {"image_id": 4, "k": 100}).json["neighbours"]
    assert 3 not in [one["image_id"] for one in found] and len(found) == len(near) - 1
    assert own_client.post("/api/translate", asked | {"image_id": 4, "guidance": 1, "neighbours": "random"}).json["run"]


def test_nobody_sees_what_was_forgotten_while_it_is_cleared(tmp_path: Path) -> None:
    pytest.importorskip("fastapi", reason="`pip install rgunit[serve]` brings FastAPI")
    from cli.serve.app import Served
    from cli.serve.gate import Refused

    with make_workspace(tmp_path, count=12) as workspace:
        looks, page = Served(workspace, "cpu", 4, False, lambda: None).looks, tmp_path / "page"
        page.mkdir()
        looks._blind["a"] = page
        workspace.forget(ids=[1])
        with ThreadPoolExecutor(2) as threads:
            with looks._busy:  # a map is being made
                asked = [threads.submit(looks._blind_folder, "a")]
                assert not wait(asked, 0.2).done
                asked += [threads.submit(looks._blind_folder, "a")]
                assert not wait(asked, 0.2).done
            assert all(isinstance(one.exception(), Refused) for one in asked)


def test_the_settings_of_a_run_name_no_place(tmp_path: Path) -> None:
    pytest.importorskip("fastapi", reason="`pip install rgunit[serve]` brings FastAPI")
    from cli.serve.app import Served

    with make_workspace(tmp_path, count=12) as workspace:
        run = workspace.add_run("translation", "demo", {"source": ["/home/me/face.png"], "config": {"method": "munit"}})
        told = Served(workspace, "cpu", 4, False, lambda: None).looks.run(run.id)
        assert told["config"] == {"source": ["face.png"], "config": {"method": "munit"}}
