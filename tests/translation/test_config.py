"""Presets say what they document; a misspelt name is answered with the nearest right one."""

from __future__ import annotations

from pathlib import Path

import pytest

from index_store.errors import UsageError
from translation.config import load_config, parse_config, presets


def test_every_preset_loads_and_survives_being_saved() -> None:
    assert presets() == [
        *("celeba-128", "celeba-64", "cut", "demo", "fastcut", "init", "mix-match", "munit", "paper-celeba-128"),
        *("sdit", "single-image", "wgan-gp", "wgan-gp-64", "zero-pair", "zero-pair-colours"),
    ]
    for name in presets():
        config = load_config(name)
        assert config.preset == name
        assert parse_config(config.model_dump(mode="json")) == config


def test_guidance_is_the_papers_in_its_preset_and_goes_beyond_it_in_the_others() -> None:
    paper = load_config("paper-celeba-128").guided
    assert paper.guidance == "convolution" and paper.fusion_learning_rate is None and not paper.neighbour_style
    for name in ("celeba-64", "celeba-128", "demo", "paper-celeba-128"):
        guided = load_config(name).guided
        assert not guided.random_k and not guided.neighbour_as_real
        assert guided.neighbour_dropout == guided.content_dropout == 0
        if name != "paper-celeba-128":
            assert guided.guidance == "patches" and guided.neighbour_style and guided.neighbour_start == 0.3
            assert guided.weights.gradient_penalty == 2 and guided.discriminator_learning_rate == 1e-3


def test_the_papers_numbers() -> None:
    config = load_config("paper-celeba-128")
    assert config.data.size == 128 and config.data.mirror
    assert config.data.attributes_used == ("Black_Hair", "Blond_Hair", "Brown_Hair", "Male", "Young")
    assert config.networks.width == config.networks.discriminator_width == 1.0
    assert config.networks.content_blocks == config.networks.generator_blocks == 4
    assert config.networks.discriminator_scales == 1
    for stage in (config.translation, config.guided):
        assert stage.batch == 1 and stage.betas == (0.5, 0.999) and stage.average == 0.999
        assert stage.learning_rate == 1e-4 and stage.halve_every == 200_000 and stage.warmup == 0
        weights = stage.weights.model_dump()
        assert weights == {
            "adversarial": 1,
            "domain": 1,
            "content": 1,
            "style": 10,
            "reconstruction": 1,
            "cycle": 10,
            "kl": 0.1,
            "isometry": 0.1,
            "perceptual": 0.1,
            "patch_nce": 0,
            "gradient_penalty": 0,
            "mask": 0,
        }
    assert config.guided.neighbours == 3 and config.guided.fusion == "paper"
    r = config.retrieval
    assert (r.widths, r.hidden, r.dim, r.dropout, r.norm) == ((128, 64, 32), 512, 100, 0.1, "instance")
    assert (r.margin, r.batch, r.learning_rate, r.momentum, r.halve_every) == (0.2, 32, 0.01, 0.9, 10_000)
    assert r.negatives == ("easy", "medium", "hard", "own_domain")


def test_the_other_presets_numbers() -> None:
    celeba = load_config("celeba-64")
    assert (celeba.data.size, celeba.networks.width, celeba.translation.batch) == (64, 0.375, 8)
    assert celeba.training.precision == "auto" and celeba.training.channels_last
    assert celeba.data.attributes_used == load_config("paper-celeba-128").data.attributes_used
    demo = load_config("demo")
    assert (demo.data.size, demo.networks.width, demo.translation.batch, demo.demo.images) == (32, 0.25, 8, 1500)
    for config in (celeba, demo):
        assert config.guided.fusion == "identity" and config.guided.neighbours == 3
        assert config.translation.warmup > 0 and config.guided.warmup == 0
        assert config.translation.weights.reconstruction == 10 and config.translation.weights.kl == 0.1


@pytest.mark.parametrize(
    ("override", "answer"),
    [
        ("translation.bach=4", "translation.bach: did you mean batch"),
        ("translaton.batch=4", "translaton: did you mean translation"),
        ("translation.weights.cycel=1", "did you mean cycle"),
        ("retrieval.margn=1", "did you mean margin"),
        ("evaluation.pair=1", "did you mean pairs"),
        ("translation.zzzz=4", "known are"),
    ],
)
def test_a_misspelt_key_names_the_nearest(override: str, answer: str) -> None:
    with pytest.raises(UsageError, match=answer) as refused:
        load_config("demo", overrides=[override])
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "override",
    [
        "translation.batch=0",
        "translation.batch=four",
        "translation.average=1.0",
        "translation.weights.kl=-1",
        "translation.weights.kl=inf",
        "translation.learning_rate=inf",
        "retrieval.margin=inf",
        "semantic.weight=inf",
        "guided.fusion=attention",
        "data.size=48",
        "data.size=0",
        "networks.width=0",
        "networks.discriminator_scales=3",  # at 32 px the third scale would see 8 px: nothing left of it
        "training.precision=16",
        "shares.translation=0.9",
        "translation=3",
        "translation.batch",
        "=3",
    ],
)
def test_a_wrong_value_is_refused_in_one_line(override: str) -> None:
    with pytest.raises(UsageError) as refused:
        load_config("demo", overrides=[override])
    assert "\n" not in str(refused.value)


def test_an_embedding_that_weighs_nothing_is_refused_and_a_run_trained_so_still_opens() -> None:
    with pytest.raises(UsageError, match=r"set sampling\.informative=true, or leave it out"):
        load_config("init", overrides=["sampling.embedding=r2"])
    config = load_config("init", overrides=["sampling.embedding=r2", "sampling.informative=true"])
    saved = config.model_dump(mode="json")
    saved["sampling"]["informative"] = False
    assert parse_config(saved).sampling.embedding == "r2"


def test_an_unknown_preset_names_the_nearest() -> None:
    with pytest.raises(UsageError, match="did you mean celeba-64"):
        load_config("celeba64")


def test_file_then_overrides_lie_over_the_preset(tmp_path: Path) -> None:
    file = tmp_path / "own.toml"
    file.write_text("[translation]\nbatch = 5\nsteps = 7\n[translation.weights]\ncycle = 2.0\n")
    config = load_config(
        "demo", file=file, overrides=["translation.steps=9", "networks.perceptual_weights=a b"], size=64
    )
    assert (config.translation.batch, config.translation.steps, config.data.size) == (5, 9, 64)
    assert config.translation.weights.cycle == 2.0
    assert config.translation.weights.reconstruction == 10.0, "the preset's other weights stay"
    assert config.networks.perceptual_weights == "a b"
    with pytest.raises(UsageError, match="cannot read"):
        load_config("demo", file=tmp_path / "missing.toml")
    file.write_text("[translation")
    with pytest.raises(UsageError, match="no valid TOML"):
        load_config("demo", file=file)


def test_another_methods_key_is_refused_where_a_user_gives_it_and_dropped_from_the_preset(tmp_path: Path) -> None:
    assert load_config("demo", method="cut").translation.steps == load_config("demo").translation.steps
    with pytest.raises(UsageError, match=r"unknown setting translation\.kl_warmup"):
        load_config("demo", method="cut", overrides=["translation.kl_warmup=5"])
    file = tmp_path / "my.toml"
    file.write_text("[translation]\ndomain_softmax = true\n")
    with pytest.raises(UsageError, match=r"unknown setting translation\.domain_softmax"):
        load_config("demo", method="cut", file=file)


@pytest.mark.parametrize(
    ("override", "meant"),
    [
        ("batch=4", r"unknown setting batch: did you mean translation\.batch or .*guided\.batch"),
        ("bacth=4", r"unknown setting bacth: did you mean translation\.batch or .*guided\.batch"),
        ("guided.bacth=4", r"unknown setting guided\.bacth: did you mean batch\?"),
        (
            "retrieval.neighbour_pool=4",
            r"unknown setting retrieval\.neighbour_pool: did you mean guided\.neighbour_pool",
        ),
    ],
)
def test_a_setting_in_the_wrong_place_is_told_its_own(override: str, meant: str) -> None:
    with pytest.raises(UsageError, match=meant):
        load_config("demo", overrides=[override])
