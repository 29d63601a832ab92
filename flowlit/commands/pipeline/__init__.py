"""flowlit pipeline: run the stages of a recipe."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from contextlib import nullcontext

from .recipe import Recipe
from .state import locked


def main(argv: Sequence[str]) -> int:
    """Run ``flowlit pipeline``."""
    parser = argparse.ArgumentParser(
        prog="flowlit pipeline",
        description=(
            "Run the stages of a recipe, each in a process of its own; skip what is done, go on where it "
            "stopped."
        ),
        epilog="Override an option of a stage by --stage.option value, e.g. --reflow.model.network.width 24",
        allow_abbrev=False,
    )
    parser.add_argument(
        "-c", "--config", required=True, help="the recipe, e.g. experiments/recipes/slimflow_digits.yaml"
    )
    parser.add_argument("--root", help="folder for all results; the recipe's own by default")
    parser.add_argument("--dry-run", action="store_true", help="only show what would run, and why")
    options, words = parser.parse_known_args(list(argv))
    recipe = Recipe.read(options.config, options.root)
    recipe.override(words)
    with nullcontext() if options.dry_run else locked(recipe.root):
        return execute(recipe, options.dry_run)


def execute(recipe: Recipe, dry_run: bool) -> int:
    """Show the plans, then carry them out."""
    plans = recipe.plans()
    width = max(len(plan.stage.name) for plan in plans)
    for plan in plans:
        print(f"{plan.stage.name:<{width}}  {plan.action:<6}  {plan.reason}", flush=True)
    if dry_run:
        return 0
    for plan in plans:
        recipe.run(plan)
    if recipe.table:
        from .summary import summarise

        print(summarise(recipe.root, recipe.table, {stage.name: stage.writes for stage in recipe.stages}))
    return 0
