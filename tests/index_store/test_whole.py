"""Files that are there whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from index_store.whole import whole, write_json, write_text


@pytest.mark.parametrize("failure", [OSError("full"), KeyboardInterrupt()])
def test_what_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path, failure: BaseException) -> None:
    target = tmp_path / "new" / "file.txt"
    write_text(target, "old\n", newline="")
    with pytest.raises(type(failure)), whole(target, durable=True) as part:
        part.write_text("half")
        raise failure
    assert [file.name for file in target.parent.iterdir()] == ["file.txt"] and target.read_bytes() == b"old\n"
    write_json(target, {"a": 1}, durable=True)
    assert target.read_text() == '{\n "a": 1\n}\n' and len(list(target.parent.iterdir())) == 1
