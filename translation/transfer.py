"""Networks that start from another run's: TransferGAN's four combinations, and any method's own (`--from RUN`)."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence

from torch import Tensor

from index_store.errors import RgunitError, UsageError
from index_store.names import quoted
from index_store.runs import CHECKPOINT
from index_store.workspace import RunRecord
from translation.config import Config
from translation.methods import Trains
from translation.runs import GENERATOR, MINER, method_of
from translation.training.checkpoints import open_checkpoint

TOLD = 3  # of the layers that do not fit


def transfer_names(method: Trains, names: Sequence[str]) -> tuple[str, ...]:
    """The networks to start from another run. UsageError for a name that the method has not, or for none."""
    if not names:
        raise UsageError("--transfer names the networks that start from the run, such as generator,discriminator")
    for name in names:
        if name not in method.networks:
            raise UsageError(f"--transfer {name}: the networks are {', '.join(method.networks)}")
    return tuple(names)


def start_from(method: Trains, names: Sequence[str], run: RunRecord, config: Config) -> None:
    """Give networks of a fresh method the weights of a run: of what is averaged there the average.

    A method may take weights in another shape (`adapt`). RgunitError where layers do not fit, which it names.
    """
    adapt = getattr(method, "adapt", lambda name, weights: dict(weights))
    chosen: dict[str, Mapping[str, Tensor]] = {}
    problems = []
    for name in names:
        weights = adapt(name, stored_weights(run, name))
        own = method.networks[name].state_dict()
        wrong = [f"{name}.{key} is not there" for key in own if key not in weights]
        wrong += [f"{name}.{key} is too much" for key in weights if key not in own]
        wrong += [
            f"{name}.{key} is {_shape(weights[key])}, not {_shape(own[key])}"
            for key in own
            if key in weights and weights[key].shape != own[key].shape
        ]
        problems += wrong
        chosen[name] = weights
    if problems:
        told = "; ".join(problems[:TOLD]) + (f"; and {len(problems) - TOLD} more" if len(problems) > TOLD else "")
        theirs = run.config["config"]["data"]["size"]
        raise RgunitError(
            f"run {run.id} ({run.stage}, {method_of(run)}, {theirs} px) does not fit these settings ({config.method}, "
            f"{config.data.size} px): {told}: {_remedy(run, config)}"
        )
    for name, weights in chosen.items():
        method.networks[name].load_state_dict(weights)


def _remedy(run: RunRecord, config: Config) -> str:
    """What to do where a run's layers do not fit."""
    theirs, ours = run.config["config"], config.model_dump(mode="json")
    if (method_of(run), theirs["data"]["size"]) == (config.method, config.data.size):
        if run.stage == MINER:
            return f"a miner's networks are no generator: name its source ({' or '.join(run.config['from'])})"
        if run.stage == GENERATOR and theirs["generator"]["conditional"] and not ours["generator"]["conditional"]:
            names = shlex.quote(",".join(map(quoted, run.config["attributes_used"])))
            return f"it is a conditional generator: add --set generator.conditional=true --attributes-used {names}"
    return "take a run of the same method, size and widths"


def stored_weights(run: RunRecord, name: str) -> dict[str, Tensor]:
    """A network's weights in a run's checkpoint, averaged where it keeps an average; none where it has no such one."""
    path = run.path / CHECKPOINT
    with open_checkpoint(path) as (file, _):
        keys = list(file.keys())
        for prefix in (f"average.{name}.", f"networks.{name}."):
            found = {key.removeprefix(prefix): file.get_tensor(key) for key in keys if key.startswith(prefix)}
            if found:
                return found
    return {}


def _shape(weights: Tensor) -> str:
    return "×".join(map(str, weights.shape)) or "a number"
