"""``flowlit pipeline``: run the stages of a recipe."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext


def pipeline(
    *overrides: str, config: str, root: str = "", dry_run: bool = False, trust: bool = False
) -> Iterator[str]:
    """Run the stages of a recipe, each in a process of its own.

    A stage that is done is skipped, one that was interrupted goes on. An option of a stage is overridden by
    --stage.option value, e.g. --reflow.model.network.width 24; a variable of the recipe by --vars.name value.

    Args:
        overrides: options of stages, each with its value
        config: the recipe, e.g. experiments/recipes/slimflow_digits.yaml
        root: folder for all results; the recipe's own by default
        dry_run: only show the variables, what would run, and why
        trust: run classes of your own, too
    """
    from .check import check_configurations
    from .recipe import Recipe, check_trust, missing_inputs
    from .state import locked
    from .variables import described

    recipe = Recipe.read(config, root, overrides)
    recipe.trust = trust
    if dry_run and recipe.variables:
        yield described(recipe.variables)
    yield from recipe.settle(dry_run)
    with nullcontext() if dry_run else locked(recipe.root):
        plans = recipe.plans()
        width = max(len(plan.stage.name) for plan in plans)
        yield from (f"{plan.stage.name:<{width}}  {plan.action:<6}  {plan.reason}" for plan in plans)
        if not dry_run:
            recipe.check(plans)
        elif missing := missing_inputs(plans, config):
            yield f"it would not begin: {missing}"
        recipe.trust = trust or check_trust(recipe)
        check_configurations(plans, recipe.root, recipe.trust)
        if dry_run:
            return
        for plan in plans:
            recipe.run(plan)
        if recipe.table:
            from .summary import summarise

            yield summarise(recipe.root, recipe.table, {stage.name: stage.writes for stage in recipe.stages})
