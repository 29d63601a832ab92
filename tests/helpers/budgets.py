"""Evaluations of networks that a recipe takes, counted by one step of each of its trainings, in small."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from types import SimpleNamespace
from typing import Any

import tiny
import torch
import yaml
from tools import tiny_unet

from flowlit.callbacks.training.counting import CountedNetworks
from flowlit.commands._yaml.references import resolved
from flowlit.metrics.training_cost import Evaluations
from flowlit.modules import Critic, CriticModule, FlowModule
from flowlit.networks import Discriminator, SmallClassifier
from flowlit.objectives.distances import SquaredError
from flowlit.types import Pair

LATER = 1 << 20
"""A step after all waiting."""


class Labelled(tiny.Affine):
    """A velocity that knows ten classes, and does without them now and then."""

    num_classes = 10
    label_dropout = 0.1


def of_recipe(recipe: Any, batch: int) -> tuple[int, int]:
    """Return evaluations with and without gradient of all trainings and couplings of a settled recipe."""
    total = Evaluations()
    for stage in recipe.stages:
        if stage.command in ("fit", "couple"):
            content = in_place(stage.configuration(recipe.root))
            total += of_pairs(content) if stage.command == "couple" else of_training(content, batch)
    return total.with_gradient, total.without_gradient


def in_place(content: dict[str, Any]) -> dict[str, Any]:
    """Return a configuration with values in place of references."""

    def value(node: Any, path: tuple[str, ...]) -> Any:
        if isinstance(node, dict):
            return {key: value(child, (*path, key)) for key, child in node.items()}
        if isinstance(node, list):
            return [value(child, (*path, str(i))) for i, child in enumerate(node)]
        if isinstance(node, str) and "${" in node:
            return yaml.safe_load(resolved(node, [content], path))
        return node

    return value(content, ())


def of_pairs(content: dict[str, Any]) -> Evaluations:
    """Return the evaluations of a coupling by the midpoint rule, two for each step."""
    (solver,) = content["model"]["solvers"].values()
    assert solver["class_path"] == "flowlit.solvers.Midpoint"
    return Evaluations(0, 2 * solver["steps"] * content["num"])


def of_training(content: dict[str, Any], batch: int) -> Evaluations:
    """Return the evaluations of all steps; a generator's first ones, when it waits, may take fewer."""
    steps = content["trainer"]["max_steps"]
    waiting = content["vars"].get("wait", 0)
    model = yaml.safe_dump(content["model"])
    late = of_step(model, LATER)
    early = of_step(model, 0) if waiting else late
    return Evaluations(
        batch * (waiting * early.with_gradient + (steps - waiting) * late.with_gradient),
        batch * (waiting * early.without_gradient + (steps - waiting) * late.without_gradient),
    )


@cache
def of_step(model: str, step: int) -> Evaluations:
    """Return the evaluations for each sample of a batch in one step, of a configuration's ``model``."""
    module = small(yaml.safe_load(model))
    module._trainer = SimpleNamespace(global_step=step)  # type: ignore[assignment]
    rows = 2
    x0, x1 = torch.randn(2, rows, 1, 8, 8)
    pair = Pair(x0, x1, {"label": torch.zeros(rows, dtype=torch.int64)})
    if "path" in module.objective.keeps:
        times = torch.tensor([[0.5, 1.0]]).expand(rows, 2)
        pair = pair._replace(cond={**pair.cond, "path": (x0 + x1)[:, None] / 2, "times": times})
    networks = CountedNetworks(module, None, counts := {})
    networks.begin()
    if isinstance(module, CriticModule):
        for _ in range(module.critic.updates):
            module.critic_losses(pair)
        module.generator_losses(pair)
    else:
        module.objective(module.network, pair)
    networks.release()
    total = sum(counts.values(), Evaluations())
    return Evaluations(total.with_gradient // rows, total.without_gradient // rows)


def small(arguments: dict[str, Any]) -> FlowModule:
    """Return the module of a configuration, with small networks in place of its own."""
    objective = built(arguments["objective"])
    solvers = {name: built(solver) for name, solver in arguments["solvers"].items()}
    if "critic" not in arguments:
        module = FlowModule(Labelled(), objective, solvers=solvers)
        module.averages.begin("ema", module.network)
        return module
    critic = arguments["critic"]
    second = Critic(built(critic["network"]), updates=critic["updates"])
    return CriticModule(Labelled(), objective, second, solvers=solvers)


def built(node: Any) -> Any:
    """Return the object of a configuration without ``init_args``; networks and distances are small ones."""
    if isinstance(node, list):
        return [built(child) for child in node]
    if not isinstance(node, dict):
        return node
    if "class_path" not in node:
        return {key: built(child) for key, child in node.items()}
    module, _, name = node["class_path"].rpartition(".")
    arguments = {key: built(child) for key, child in node.items() if key != "class_path"}
    if name in ("pretrained", "UNet"):
        features = "/features/" in str(node)
        return SmallClassifier(1, 10, 8) if features else Labelled()
    if name == "Discriminator":
        return Discriminator(tiny_unet(num_classes=10))
    if name == "EfficientNetLite0Distance":
        return SquaredError()
    return getattr(import_module(module), name)(**arguments)
