"""A run as Hugging Face's libraries save and load models, by the hub's own mixin (`pip install 'rgunit[hub]'`).

The one idea: the folder is that of `export --format hub`, and what is loaded went through the checks of `import-model`,
into a workspace that lasts as long as the model is open.
"""

from __future__ import annotations

import shutil
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from types import new_class
from typing import Any

from index_store.errors import RgunitError, UsageError
from index_store.workspace import Workspace
from translation.runs import GUIDED
from translation.sharing.exporting import export_run
from translation.sharing.importing import import_model

FETCHING = ("revision", "cache_dir", "force_download", "local_files_only", "token")
"""What the mixin hands on of how to fetch a model."""


def save(workspace: Workspace, run: str, folder: Path, *, licence: str | None = None, **options: Any) -> Any:
    """Write a run to a new folder; `options` are those of the mixin's `save_pretrained` (such as push_to_hub).

    `licence`: what others may do with the pictures that guide it, which are then in the folder; by default that of the
    collection that it was loaded with. UsageError for a folder that holds something.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder} is there already: give a new folder")
    shared = _shared()(workspace, run, licence)
    try:
        return shared.save_pretrained(folder, **options)
    except BaseException:
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
        raise


def load(source: str | Path, **options: Any) -> tuple[Workspace, str, TemporaryDirectory[str]]:
    """A folder that `save` (or `rgunit export --format hub`) wrote, or a model of the hub by its name: a workspace with
    the run, the run, and the folder that holds it until it is cleaned up.

    `options` are those of the mixin's `from_pretrained` (revision, token, cache_dir, local_files_only …). RgunitError
    says what is wrong with it, or why it could not be fetched.
    """
    if Path(source).is_file():
        raise UsageError(f"{source} is a file: unpack it, or take `rgunit import-model`")
    try:
        shared = _shared().from_pretrained(str(source), **options)
    except RgunitError:
        raise
    except TypeError as error:
        raise UsageError(f"from_pretrained: {error}") from None
    except Exception as error:  # the hub's libraries have many kinds
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise RgunitError(f"there is no folder {source}, and no such model could be fetched: {reason}") from error
    return shared.workspace, shared.run, shared.home


@cache
def _shared() -> Any:
    """The mixin's class of a run. RgunitError where the hub's library is not installed."""
    try:
        from huggingface_hub import ModelHubMixin, snapshot_download
    except ImportError:
        raise RgunitError(
            "this needs huggingface_hub, which is not installed: pip install 'rgunit[hub]' (`rgunit export --format "
            "hub` and `rgunit import-model` do without)"
        ) from None

    def loaded(cls: Any, /, *, model_id: str, **options: Any) -> Any:
        home = TemporaryDirectory(prefix="rgunit-pretrained-")
        try:
            folder = Path(model_id)
            if not folder.is_dir():
                cached = snapshot_download(model_id, **{name: options[name] for name in FETCHING})
                folder = Path(home.name) / "model"  # the cache is links, which are not followed out of a folder
                shutil.copytree(cached, folder)
            made = import_model(Path(home.name) / "workspace", folder)
            if folder.is_relative_to(home.name):
                shutil.rmtree(folder)
            return cls(Workspace.open(Path(home.name) / "workspace"), made.run, None, home)
        except BaseException:
            home.cleanup()
            raise

    parts = {"__init__": _init, "_save_pretrained": _save, "_from_pretrained": classmethod(loaded)}
    about = {"library_name": "rgunit", "pipeline_tag": "image-to-image", "tags": ["rgunit"]}
    return new_class("SharedRun", (ModelHubMixin,), about, lambda namespace: namespace.update(parts))


def _init(self: Any, workspace: Any, run: Any, licence: Any = None, home: Any = None) -> None:
    self.workspace, self.run, self.licence, self.home = workspace, run, licence, home


def _save(self: Any, save_directory: Path) -> None:
    """What the mixin calls to write the files."""
    record = self.workspace.run(self.run)
    guided = record.stage == GUIDED and record.config.get("neighbours") == "retrieved"
    licence = self.licence or (record.config.get("imported", {}).get("licence") if guided else None)
    export_run(self.workspace, record.id, "hub", save_directory, with_index=licence is not None, licence=licence)
