"""Configuration: one TOML file a preset, every number of every stage in it, nothing unknown accepted.

`load_config("celeba-64", overrides=["translation.batch=4"])` starts from a preset in `translation/presets/`, lays a
user's own TOML file over it, then single settings. A misspelt key is refused with the nearest right name. The sections
`networks`, `translation` and `guided` are those of the method that the configuration names.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field, SerializeAsAny, ValidationError, create_model, model_validator

from index_store import places
from index_store.errors import UsageError
from retrieval.config import RetrievalConfig
from translation.evaluation.config import EvaluationConfig
from translation.methods import DEFAULT, find_method
from translation.sections import (
    DataConfig,
    DemoConfig,
    ExtractorConfig,
    GuidedConfig,
    IndexConfig,
    SamplingConfig,
    Section,
    SemanticConfig,
    Shares,
    StageConfig,
    TrainingConfig,
)

LARGEST = 2**20  # bytes of a configuration
PRESETS = Path(__file__).parent / "presets"
KEPT = ("steps", "batch", "average", "warmup", "neighbours", "neighbour_pool", "feature_cache")
"""Of a preset's adversarial stages, what stays when `--method` names another method, where that one has it."""


class Config(Section):
    """Everything that decides a run; saved with it."""

    preset: str = "paper-celeba-128"
    method: str = Field(DEFAULT, description="what is trained: `rgunit methods` lists them")
    data: DataConfig = DataConfig()
    networks: SerializeAsAny[Section] = Section()
    translation: SerializeAsAny[StageConfig] = StageConfig()
    retrieval: RetrievalConfig = RetrievalConfig()
    index: IndexConfig = IndexConfig()
    guided: SerializeAsAny[GuidedConfig] = GuidedConfig()
    sampling: SamplingConfig = SamplingConfig()
    semantic: SemanticConfig = SemanticConfig()
    extractor: ExtractorConfig = ExtractorConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    training: TrainingConfig = TrainingConfig()
    shares: Shares = Shares()
    demo: DemoConfig = DemoConfig()

    @model_validator(mode="after")
    def _method_agrees(self) -> Config:
        method = find_method(self.method)
        method.check(self)
        for wanted, part in ((self.sampling.informative, "informative"), (self.sampling.hops > 1, "hops")):
            if wanted and part not in method.about.sampling:
                raise ValueError(f"sampling.{part} is not for {self.method}: `rgunit methods` says what it takes")
        if self.semantic.weight and "semantic" not in method.about.objectives:
            raise ValueError(f"semantic.weight is not for {self.method}: `rgunit methods` says what it takes")
        if self.semantic.extractor and not self.semantic.weight and not self.guided.agree:
            raise ValueError("semantic.extractor holds nothing without a weight: set semantic.weight, or guided.agree")
        if self.guided.agree and not method.about.guidance:
            raise ValueError(f"guided.agree is not for {self.method}, which takes no neighbours")
        return self


@cache
def config_class(method: str) -> type[Config]:
    """The configuration of a method: `Config` with the sections that it brings. UsageError for an unknown method."""
    own = find_method(method).sections.every()
    fields: dict[str, Any] = {name: (kind, Field(default_factory=kind)) for name, kind in own.items()}
    made: type[Config] = create_model("Config", __base__=Config, **fields)
    return made


def presets() -> list[str]:
    """Names of the presets that come with the package."""
    return sorted(file.stem for file in PRESETS.glob("*.toml"))


def presets_of(method: str) -> list[str]:
    """Names of the presets of a method."""
    methods = {name: tomllib.loads((PRESETS / f"{name}.toml").read_text()).get("method", DEFAULT) for name in presets()}
    return [name for name, own in methods.items() if own == method]


def load_config(
    preset: str,
    *,
    method: str | None = None,
    base: Mapping[str, Any] | None = None,
    file: Path | None = None,
    overrides: Sequence[str] = (),
    size: int | None = None,
) -> Config:
    """A preset, with settings `base`, a TOML `file` and `section.key=value` overrides laid over it in this order.

    `method` trains another method with the preset's data, sizes, steps and evaluation (`switched`); a `method` key in
    the file or the overrides does the same. Raises UsageError for an unknown preset, method, key or value, naming the
    nearest right one, and for an embedding that nothing is weighed by.
    """
    if preset not in presets():
        raise UsageError(f"unknown preset {preset!r}: {_did_you_mean(preset, presets())}")
    settings = tomllib.loads((PRESETS / f"{preset}.toml").read_text())
    if base:
        settings = _merged(switched(settings, str(base.get("method", DEFAULT))), base)
    settings["preset"] = preset
    given: dict[str, Any] = {}
    if file is not None:
        try:
            given = tomllib.loads(places.read_bytes(file, LARGEST).decode())
        except OSError as error:
            raise UsageError(f"cannot read the configuration {file}: {error.strerror}") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise UsageError(f"{file} is no valid TOML: {error}") from None
    for override in overrides:
        given = _merged(given, _setting(override))
    if size is not None:
        given = _merged(given, {"data": {"size": size}})
    wanted = method or given.get("method")
    if wanted is not None:
        settings = switched(settings, str(wanted))
        given["method"] = wanted
    config = parse_config(_merged(settings, given))
    if config.sampling.embedding and not config.sampling.informative:  # a run that was trained so still opens
        raise UsageError(
            "sampling.embedding weighs nothing by itself: set sampling.informative=true, or leave it out "
            "(sampling.embedding='')"
        )
    return config


def switched(settings: Mapping[str, Any], method: str) -> dict[str, Any]:
    """Settings for another method: data, sizes, steps, batches and evaluation stay; the rest of its sections is the
    method's own (a stage that the settings have not takes steps and batch of `translation`). The same settings where
    they are the method's already."""
    before = str(settings.get("method", DEFAULT))
    if before == method:
        return dict(settings)
    gone = find_method(before).sections.stages
    changed = {key: value for key, value in settings.items() if key not in gone} | {"method": method}
    for section, known in find_method(method).sections.every().items():
        kept = known.model_fields if section == "networks" else [key for key in KEPT if key in known.model_fields]
        given = settings.get(section, settings.get("translation", {}))
        changed[section] = {key: value for key, value in given.items() if key in kept}
    return changed


def parse_config(settings: Mapping[str, Any]) -> Config:
    """The configuration in nested dictionaries (as saved with a run), checked."""
    kind = config_class(str(settings.get("method", DEFAULT)))
    try:
        return kind.model_validate(settings)
    except ValidationError as error:
        raise UsageError(_explain(error, kind)) from None


def _setting(override: str) -> dict[str, Any]:
    name, equals, text = override.partition("=")
    if not equals or not name.strip():
        raise UsageError(f"--set takes section.key=value, not {override!r}")
    try:
        value = tomllib.loads(f"value = {text.strip()}")["value"]
    except tomllib.TOMLDecodeError:
        value = text.strip()  # a bare word is a string
    for key in reversed(name.strip().split(".")):
        value = {key: value}
    return dict(value)


def _merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        merged[key] = _merged(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return merged


def _explain(error: ValidationError, kind: type[Config]) -> str:
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        model: Any = kind
        for part in first["loc"][:-1]:
            model = model.model_fields[str(part)].annotation
        return f"unknown setting {place}: {_meant(str(first['loc'][-1]), list(model.model_fields), kind)}"
    message = str(first["msg"]).removeprefix("Value error, ")
    if message.startswith("Input should be") and isinstance(first["input"], str | int | float):
        message = f"{message.replace('Input should be', 'must be')}, not {first['input']!r}"
    return f"setting {place}: {message}" if place else message


def _meant(name: str, here: Sequence[str], kind: type[Config]) -> str:
    """What an unknown name of a section with the settings `here` may mean, there or in another section."""
    elsewhere: dict[str, list[str]] = {}
    for path in _settings(kind):
        elsewhere.setdefault(path.rpartition(".")[2], []).append(path)
    if not difflib.get_close_matches(name, here, cutoff=0.5 if name not in elsewhere else 0.8):
        near = difflib.get_close_matches(name, elsewhere, n=1, cutoff=0.7)
        if near:
            return f"did you mean {' or '.join(elsewhere[near[0]])}?"
    return _did_you_mean(name, here)


def _settings(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Every setting of a configuration as `section.key`, those of sections in sections too."""
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _settings(field.annotation, f"{prefix}{name}.")
        else:
            yield prefix + name


def _did_you_mean(name: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    return f"did you mean {' or '.join(near)}?" if near else f"known are {', '.join(known)}"
