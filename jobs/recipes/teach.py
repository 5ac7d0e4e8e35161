"""The lesson of a recipe: teachers trained or loaded, and what they say of the rows, kept as Parquet.

A directory, by default ``teachers`` in that of the recipe, holds the nets that are trained here, step by step as
``stages/`` does, and ``taught-KEY.parquet``: the rows, their copies, the columns ``teacher`` (logits) and ``held_out``;
KEY is a digest of all that shapes them. A run that is stopped goes on in the middle of a teacher's training; a file is
there whole or not.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from eigenmill.compress import Model, Samples, Validation, from_onnx, from_safetensors, gather, load, teach
from eigenmill.compress.core.integer import WholeNet
from eigenmill.compress.distill import HELD, TEACHER
from eigenmill.jobs.recipes import recipe as spec
from eigenmill.jobs.recipes.recipe import RecipeFile
from eigenmill.jobs.recipes.steps import STEPS, VERSION, checkpoint_of, read_kept, section_values, write_kept
from eigenmill.reduce import Dataset
from eigenmill.reduce.engines.base import Progress
from eigenmill.reduce.errors import ArtifactError, SchemaError
from eigenmill.reduce.storage import places
from eigenmill.reduce.storage.digest import digest_of, sha256_of_file


@dataclass(frozen=True)
class Lesson:
    """What the steps ``distill`` of a recipe learn from; it is made when it is first asked for.

    Attributes:
        source: the recipe, which has teachers.
        data: its rows, ``plain_samples``: gathered without teachers.
        place: the directory for teachers and what they say; ``work`` is where samples go.
    """

    source: RecipeFile
    data: Dataset
    plain_samples: Samples
    place: Path
    work: Path
    progress: Progress | None

    @property
    def wanted(self) -> spec.Teachers:
        """The section of the recipe."""
        found = self.source.recipe.teachers
        assert found is not None
        return found

    @cached_property
    def key(self) -> str:
        """Digest of rows, teachers and copies."""
        wanted = self.wanted.model_copy(update={"path": None})
        seed, files = self.source.recipe.model.seed, list[str]()
        for number, member in enumerate(self.wanted.members):
            with self.source.blame("teachers", "members", number):
                files += [] if member.path is None else [_sha256(member.path)]
        return digest_of([VERSION, self.plain_samples.digest, section_values(wanted), files, seed])

    @property
    def path(self) -> Path:
        """Of what the teachers say."""
        return self.place / f"taught-{self.key[:16]}.parquet"

    @cached_property
    def samples(self) -> Samples:
        """The rows and their copies, with the teachers' logits; the same rows are held out."""
        recipe, wanted = self.source.recipe, self.wanted
        members = []
        for number in range(len(wanted.members)):
            with self.source.blame("teachers", "members", number):
                members.append(self._member(number))
        with self.source.blame("teachers"):
            taught = teach(
                members,
                self.data,
                self.path,
                label=recipe.label,
                copies=wanted.copies,
                augment=None if wanted.augment is None else wanted.augment.model_dump(),
                dtype=wanted.dtype,
                validation=recipe.validation.model_dump(),
                seed=recipe.model.seed,
            )
        split = Validation(by=HELD, equals=True)
        options: dict[str, Any] = {"validation": split, "seed": recipe.model.seed, "directory": self.work}
        return gather(self.plain_samples.model, taught, recipe.label, teacher=TEACHER, **options)

    def _member(self, number: int) -> Model | WholeNet:
        member = self.wanted.members[number]
        if member.path is None:
            return self._trained(number, member)
        model, ending = self.plain_samples.model, os.path.splitext(member.path)[1]
        options: dict[str, Any] = {"labels": model.labels or None, "task": model.task}
        found: Model | WholeNet
        if ending in (".onnx", ".safetensors"):
            found = (from_onnx if ending == ".onnx" else from_safetensors)(member.path, self.data, **options)
        else:
            found = load(member.path) if ending == ".emill" else Model.restore(member.path).trained()
        if (found.task, found.labels) != (model.task, model.labels):
            raise SchemaError(
                f"expected a teacher of the labels {list(model.labels)[:10]}, found a {found.task} of "
                f"{list(found.labels)[:10]}; take one of the same labels"
            )
        return found

    def _trained(self, number: int, member: spec.Member) -> Model:
        """A teacher after its own steps, each of which is kept."""
        rows = self.plain_samples
        model = Model.mlp(None, member.hidden, task=rows.model.task, seed=member.seed)
        columns = {name: value for name, value in rows.model.columns.items() if name != "columns"}
        model = replace(model, columns=columns)
        key = digest_of([VERSION, rows.digest, member.hidden, member.seed])
        for place, step in enumerate(member.steps or ()):
            key = digest_of([key, section_values(step)])
            target = self.place / f"{number}-{place:02d}-{step.step}.model"
            found = read_kept(target, key)
            if found is None:
                checkpoint = checkpoint_of(target, key)
                model = STEPS[step.step](step, model, rows, checkpoint, member.seed, self.progress)
                write_kept(target, key, model, {})
            else:
                model = found[0]
        return model

    def error(self) -> float | None:
        """Of all teachers together, on the rows held out: share of wrong labels or root mean square error."""
        if not self.path.exists():
            return None
        label = self.source.recipe.label
        rows = pq.read_table(self.path, columns=[label, TEACHER], filters=[(HELD, "==", True)]).combine_chunks()
        if not rows.num_rows:
            return None
        said = rows[TEACHER].combine_chunks().flatten().to_numpy().reshape(rows.num_rows, -1)
        labels = self.plain_samples.model.labels
        if not labels:
            wanted = rows[label].to_numpy().astype(np.float64)
            return float(np.sqrt(np.mean((said[:, 0] - wanted) ** 2)))
        known = pa.array(list(labels))
        places = pc.index_in(rows[label].cast(known.type), known).to_numpy()
        return float(np.mean(said.argmax(axis=1) != places))


def _sha256(path: str) -> str:
    try:
        with open(places.absolute(path), "rb") as file:
            return sha256_of_file(file)
    except OSError as error:
        raise ArtifactError(f"expected a teacher at {path}, found: {error}; check the path") from error


__all__ = ["Lesson"]
