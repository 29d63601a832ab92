"""Several students as one network: each class of images, or each prompt, has one that makes it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

from ..._support.names import public_path
from ..._support.nearest import nearest
from ..._support.nested import rows_of
from ..._support.velocities import evaluate
from ..._support.wrapped import first_inside
from ...errors import FlowlitError
from ...ranges import Checked, NonNegativeInt
from ...types import (
    Cond,
    VelocityField,
    classes_of,
    codec_of,
    evaluations_of,
    loaded_of,
    reads_of,
    shape_of,
)
from ..checkpoints.encoder import encoder_from
from ..checkpoints.spec import spec


class Router(Checked, nn.Module):
    """A velocity whose rows go to the student of their class: as good as several, as fast as one.

    A student with labels gets those of the data, one without gets none. The cost of a row is that of its
    student; memory is that of all. It generates, and takes weights; its students are trained one by one, on
    ``flowlit.data.OfClasses`` or ``Cached(only=…)``. What depends on labels is not for CUDA graphs.

    Of students that read text a class is a prompt: a row goes to the student of that one of ``prompts`` whose
    embedding is the nearest to its own. They are encoded as in the students' training, once: files have the
    embeddings.

    Song et al. 2024 (2410.23274), where students of equal sets of classes are distilled apart.

    Args:
        students: velocities of the same shape, conditions and evaluations.
        classes: those of each student; from 0 on, each class is one student's.
        prompts: that of class 0, 1, …, for students that read text.

    Raises:
        FlowlitError: if a class is missing, or there twice, or students differ.
    """

    label_dropout = 0.0
    owners: Tensor
    centres: Tensor

    def __init__(
        self,
        students: list[nn.Module],
        classes: list[list[NonNegativeInt]],
        prompts: list[str] | None = None,
    ):
        super().__init__()
        owners = owners_of(classes, len(students))
        self.students = nn.ModuleList(students)
        self.classes = [list(own) for own in classes]
        self.num_classes = len(owners) if prompts is None else 0
        self.chosen_by = "label" if prompts is None else "text"
        self.register_buffer("owners", torch.tensor(owners), persistent=False)
        self.shape = _common("shape", [shape_of(student) for student in students])
        self.evaluations = _common("evaluations", [evaluations_of(student) for student in students])
        self.codec = _common("codec", [codec_of(student) for student in students])
        others = [(reads_of(student) or frozenset()) - {"label"} for student in students]
        self.reads = _common("conditions", others) | {self.chosen_by}
        for k, student in enumerate(students):
            _check_classes(k, student, self.num_classes)
        names = [first_inside(student, "class_names") for student in students]
        self.class_names = _common("class_names", [None if each is None else tuple(each) for each in names])
        images = [first_inside(student, "trained_on") for student in students]
        self.trained_on = images[0] if all(each == images[0] for each in images) else None
        self.loaded = _joined([loaded_of(student) for student in students])
        self.text_encoder = _common(
            "text encoder", [first_inside(student, "text_encoder", dict) for student in students]
        )
        if prompts is not None:
            _check_prompts(prompts, len(owners), students)
            self.register_buffer("centres", embedded(prompts, students[0], self.text_encoder))
        specs = [spec(student) for student in students]
        if None not in specs:
            arguments: dict[str, Any] = {"students": specs, "classes": self.classes}
            if prompts is not None:
                arguments["prompts"] = list(prompts)
            self.spec = {"class_path": public_path(type(self)), "init_args": arguments}

    def forward(self, x: Tensor, t: Tensor, cond: Cond = {}) -> Tensor:
        """Return the velocity (B, C, H, W) at x (B, C, H, W) and t (B,), under labels (B,) or texts."""
        return self.routed(x, t, cond)

    def routed(
        self,
        x: Tensor,
        t: Tensor,
        cond: Cond = {},
        through: Callable[[nn.Module], VelocityField] = lambda student: student,
    ) -> Tensor:
        """Return the velocity (B, C, H, W) likewise, of students that are called through something else."""
        rows = self._rows(cond, x)
        parts = [
            evaluate(through(self.students[k]), x[own], t[own], self._cond_of(k, rows_of(cond, own)))
            for k, own in rows.items()
        ]
        return parts[0] if len(parts) == 1 else torch.cat(parts)[torch.cat(list(rows.values())).argsort()]

    def _rows(self, cond: Cond, x: Tensor) -> dict[int, Any]:
        """Return the rows of each student that has some; of one that has all, a slice."""
        if self.chosen_by not in cond:
            missing = "labels (data.noise.num_classes)" if self.chosen_by == "label" else "prompts"
            raise FlowlitError(
                f"Router: cond has no '{self.chosen_by}', which chooses the student; give {missing}"
            )
        chosen = cond[self.chosen_by]
        if isinstance(chosen, FakeTensor):  # shapes alone are followed, as if all were of one class
            return {0: slice(None)}
        owners = self.owners[chosen if self.chosen_by == "label" else self._prompts_of(chosen)]
        present = owners.unique().tolist() or [0]
        if len(present) == 1:
            return {present[0]: slice(None)}
        return {k: (owners == k).nonzero().squeeze(1) for k in present}

    def _prompts_of(self, text: Tensor) -> Tensor:
        """Return for texts (B, L, D) the number (B,) of the nearest prompt."""
        if not self.centres.any():  # built of fresh students
            raise FlowlitError(
                "Router: its prompts have no embeddings; build it of students that were trained"
            )
        return nearest(text, self.centres)

    def _cond_of(self, k: int, cond: Cond) -> Cond:
        if classes_of(self.students[k]) == 0:
            return {name: value for name, value in cond.items() if name != "label"}
        return cond


def owners_of(classes: Sequence[Sequence[int]], students: int) -> list[int]:
    """Return the student of class 0, 1, ….

    >>> owners_of([[0, 3], [1, 2]], 2)
    [0, 1, 1, 0]

    Raises:
        FlowlitError: if a class is missing or there twice, or a student has none.
    """
    if len(classes) != students or not students or not all(classes):
        raise FlowlitError(
            f"Router: found {students} students and classes {classes}; expected a list of classes for each, "
            "e.g. [[0, 1], [2, 3]]"
        )
    owners: dict[int, int] = {}
    for k, own in enumerate(classes):
        for label in own:
            if label in owners:
                raise FlowlitError(
                    f"Router: class {label} is student {owners[label]}'s and student {k}'s; give it to one"
                )
            owners[label] = k
    missing = sorted(set(range(len(owners))) - set(owners))
    if missing:
        raise FlowlitError(
            f"Router: class {missing[0]} has no student, and class {max(owners)} has; expected each from 0 on"
        )
    return [owners[label] for label in range(len(owners))]


def embedded(prompts: Sequence[str], student: nn.Module, encoder: dict[str, Any] | None) -> Tensor:
    """Return the embeddings (P, L, D) of prompts by the encoder of a student's training; zeros without one.

    Raises:
        FlowlitError: if the encoder cannot be built, or has other weights here.
    """
    null = first_inside(student, "null_text", Tensor)
    if encoder is None:
        return torch.zeros(len(prompts), *null.shape)
    return encoder_from(encoder)(list(prompts))


def _check_prompts(prompts: Sequence[str], classes: int, students: Sequence[nn.Module]) -> None:
    if len(prompts) != classes:
        raise FlowlitError(
            f"Router: {len(prompts)} prompts, and classes up to {classes - 1}; expected one for each class"
        )
    for k, student in enumerate(students):
        if first_inside(student, "null_text", Tensor) is None:
            raise FlowlitError(f"Router: student {k} has no null_text: it reads no text; leave prompts out")


def _common(what: str, values: list[Any]) -> Any:
    """Return what all students have that say; None if none of them does."""
    said = {k: value for k, value in enumerate(values) if value is not None}
    first = next(iter(said), 0)
    for k, value in said.items():
        if value != said[first]:
            raise FlowlitError(
                f"Router: {what} of student {k}: {_shown(value)}, of student {first}: {_shown(said[first])}; "
                "expected equal ones"
            )
    return said.get(first)


def _shown(value: Any) -> str:
    return ", ".join(sorted(value)) or "none" if isinstance(value, frozenset) else str(value)


def _check_classes(k: int, student: nn.Module, total: int) -> None:
    known = classes_of(student)
    if known not in (0, None, total):
        raise FlowlitError(
            f"Router: student {k} knows {known} classes, but those of all students are {total}; expected "
            f"{total}, or 0 for a student without labels"
        )


def _joined(loaded: list[dict[str, Any] | None]) -> dict[str, Any] | None:
    """Return the files of students as one; None if one of them came from none."""
    files = [each for each in loaded if each is not None]
    if len(files) < len(loaded):
        return None
    return {key: ", ".join(str(each.get(key)) for each in files) for key in ("file", "sha256", "weights")}
