"""What several tests share with ``journeys/test_recipe.py``."""

from __future__ import annotations


def bomb(step, once=None):
    return {"class_path": "tiny.KillAt", "init_args": {"step": step, "once": once}}
