"""Files that accident or malice has changed: read or refused by name, at once and in little memory."""

import resource
import sys
import time
import unicodedata
from multiprocessing import get_context
from pathlib import Path

import pytest
from PIL import Image

from index_store.errors import ImageRefused
from index_store.images import check_image, read_image
from index_store.workspace import Workspace
from tests.index_store.fuzz import mutated

SECONDS, MEGABYTES = 2.0, 600


def _read_all(pipe, folder, count, seed):
    """Tell each file before it is read; at the end how many were read, or what went wrong."""
    read = 0
    for number, (name, data) in enumerate(mutated(count, seed)):
        file = folder / f"{number}.{name.lower()}"
        file.write_bytes(data)
        pipe.send(file.name)
        begun = time.process_time()
        try:
            check_image(file, data)
            read_image(file, size=64)
            read_image(file)
            read += 1
        except ImageRefused as error:
            if "\n" in str(error):
                pipe.send(("a message of two lines", file.name))
                return
        taken, most = time.process_time() - begun, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        if taken > SECONDS or most > MEGABYTES:
            pipe.send((f"{taken:.1f} s, {most} MB", file.name))
            return
        file.unlink()
    pipe.send(read)


def fuzz(folder, count, seed):
    ours, theirs = get_context("forkserver").Pipe()
    process = get_context("forkserver").Process(target=_read_all, args=(theirs, folder, count, seed))
    process.start()
    theirs.close()
    told = ""
    try:
        while isinstance(told, str):
            assert ours.poll(60), f"{told}: hangs"
            told = ours.recv()
    except EOFError:
        pytest.fail(f"{told}: ended the process ({process.exitcode})")
    finally:
        process.kill()
        process.join()
    assert isinstance(told, int), told
    return told


def test_mutated_files_are_read_or_refused_at_once(tmp_path):
    assert 10 < fuzz(tmp_path, 200, 1) < 190


@pytest.mark.slow
def test_2000_mutated_files_of_16_formats_are_read_or_refused_at_once(tmp_path):
    assert fuzz(tmp_path, 2000, 0) > 100


def scripts():
    """A name in every script that has letters, and in what is written from right to left or set above one another."""
    found = {}
    for code in range(sys.maxunicode + 1):
        letter = chr(code)
        if unicodedata.category(letter) in ("Lo", "Ll", "Lm", "So", "Mn", "Nd"):
            script = unicodedata.name(letter, "?").split()[0]
            found[script] = found.get(script, "") + letter if len(found.get(script, "")) < 8 else found[script]
    return [f"{text}.png" for text in found.values()]


@pytest.mark.slow
def test_names_of_every_script_are_read(tmp_path):
    names = scripts()
    (tmp_path / "d").mkdir()
    for number, name in enumerate(names):
        color = (number % 256, number // 256, 7)
        Image.new("RGB", (16, 16), color).save(tmp_path / "d" / name)
    with Workspace.create(tmp_path / "w") as workspace:
        report = workspace.add_images(tmp_path / "d", origin="unlabelled")
        assert report.added == len(names) > 150 and not report.rejected
        table = workspace.images()
        assert {Path(path).name for path in table.paths} == set(names)
        assert workspace.load(table.ids[:5], 16).shape == (5, 16, 16, 3) and workspace.check_images(every=True) == []


def _memory(pipe, file):
    read_image(file)
    pipe.send(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)


@pytest.mark.slow
@pytest.mark.parametrize(("mode", "name"), [("RGB", "PNG"), ("RGBA", "PNG"), ("P", "GIF"), ("RGBA", "TGA")])
def test_a_small_file_of_64_megapixels_takes_little_memory(tmp_path, mode, name):
    file = tmp_path / f"x.{name.lower()}"
    Image.new(mode, (8000, 8000)).save(file, name, **({"rle": True} if name == "TGA" else {}))
    assert file.stat().st_size < 3_000_000
    ours, theirs = get_context("forkserver").Pipe()
    process = get_context("forkserver").Process(target=_memory, args=(theirs, file))
    process.start()
    assert ours.recv() < MEGABYTES
    process.join()
