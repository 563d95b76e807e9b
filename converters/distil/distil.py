"""The pass: choose the student, ask the teachers, train, keep.

Everything the result depends on is in the key of its cache entry. An interrupted training leaves a
checkpoint beside the entry and goes on from there. Under `accelerate launch` every process comes
through here; the first of each host computes what is cached, the others read it.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from converters.cache import tool_versions
from converters.distil.checkpoint import SECONDS_BETWEEN, Checkpoint
from converters.distil.config import DistilConfig
from converters.distil.fake import put_fakes
from converters.distil.held_out import measure
from converters.distil.lecture import OWN, Lecture
from converters.distil.lessons import Lessons, gather
from converters.distil.processes import Processes
from converters.distil.project import projections
from converters.distil.student import Learner, Observed, make_student
from converters.distil.teachers import Task, tasks_of, teachers_of
from converters.distil.train import train
from converters.encoding import encode, load_tokenizer
from converters.model import Job, TextModel
from converters.network import (
    CONFIG_FILE,
    HEAD_FILE,
    WEIGHTS_FILE,
    TextNetwork,
    load_encoder,
    load_head,
    new_head,
    save_encoder,
    save_head,
)
from converters.progress import Silent
from converters.source import files_digest
from converters.training import seed_torch, training_precision
from edge_runtime.errors import InputError
from edge_runtime.fields import Json

STAGE = "distil"
FIGURES_FILE = "figures.json"


def distil(model: TextModel, config: DistilConfig, job: Job) -> tuple[TextModel, dict[str, Json]]:
    """The pass.

    Raises:
        InputError: the student cannot be made as is wanted, or a loss cannot compare it with its
            teacher.
    """
    _check(model, config)
    processes = Processes()
    if not processes.first:
        job = replace(job, progress=Silent())
    with processes.first_here_goes_first():
        tasks = tasks_of(model, config.tasks, job)
    others = [task.train for task in tasks if task.train is not None]
    lessons = gather(job, others, config.quick_rows if job.quick else config.rows)
    parts = _parts(model, config, job, tasks, lessons)
    cached = job.cache.holds(STAGE, parts)
    processes.wait()  # nobody finishes before all have looked
    checkpoint = Checkpoint(job.cache.unfinished(STAGE, parts), SECONDS_BETWEEN)

    def make(out: Path) -> None:
        _make(out, model, config, job, tasks, lessons, processes, checkpoint)

    if processes.first_here or cached:
        folder = job.cache.folder(STAGE, parts, make)
        checkpoint.remove()
    else:
        with tempfile.TemporaryDirectory() as nowhere:
            make(Path(nowhere))
    processes.wait()  # until it is there
    folder = job.cache.folder(STAGE, parts, make)
    figures: dict[str, Json] = json.loads((folder / FIGURES_FILE).read_text())
    return _done(model, folder), figures | {"cached": cached}


def _check(model: TextModel, config: DistilConfig) -> None:
    trimmed = model.tokenizer.sha256 != model.original.tokenizer.sha256
    if config.live and trimmed:
        raise InputError(
            "distil: hidden and relation compare token by token, but the vocabulary was trimmed "
            "before, so student and teacher see other tokens; put this pass before vocabulary"
        )
    if config.width and model.original.head is None:
        raise InputError(
            f"distil: width is {config.width}, but an embedding must stay as wide as the "
            f"original's, {model.original.source.hidden}; only a classifier can be made narrower"
        )
    if model.head is None and not (config.embedding or config.similarity or config.live):
        raise InputError(
            "distil: soft and label need classes; expected a weight above 0 for embedding, "
            "similarity, hidden or relation"
        )
    if config.tasks and (model.head is None or not config.soft):
        raise InputError("distil: tasks are learned from soft labels; soft is 0 or has no classes")


def _longest(config: DistilConfig, job: Job) -> int:
    """Tokens of a text that are learned from: no more than a device will see."""
    return min(config.max_length, job.recipe.data.max_length)


def _parts(
    model: TextModel, config: DistilConfig, job: Job, tasks: list[Task], lessons: Lessons
) -> dict[str, object]:
    teachers = [
        [one.encoder_sha256, one.head_sha256(), one.tokenizer.sha256, list(one.classes)]
        for one in (task.model for task in tasks)
    ]
    return {
        "encoder": model.encoder_sha256,
        "head": model.head_sha256(),
        "tokenizer": model.tokenizer.sha256,
        "teachers": teachers,
        "weights": [task.weight for task in tasks],
        "rows": lessons.sha256,
        "test": job.data.test.sha256 if config.tasks else "",
        "classes": list(job.data.classes),
        # A narrower student is fitted to calibration texts before it is taught.
        "narrowed_to": [job.data.calibration.sha256, job.recipe.data.max_length]
        if config.width
        else [],
        "config": replace(
            config,
            tasks=(),
            precision=training_precision(config.precision),
            max_length=_longest(config, job),
        ),
        "seed": job.recipe.seed,
        "tools": tool_versions("torch", "transformers", "tokenizers", "onnxruntime"),
    }


def _done(model: TextModel, folder: Path) -> TextModel:
    """The model whose encoder and head are in `folder`."""
    encoder = folder / "encoder"
    config = json.loads((encoder / CONFIG_FILE).read_text())
    hidden = config["dim"] if "dim" in config else config["hidden_size"]
    heads = config["n_heads"] if "n_heads" in config else config["num_attention_heads"]
    return replace(
        model,
        encoder=encoder,
        encoder_sha256=files_digest([encoder / CONFIG_FILE, encoder / WEIGHTS_FILE]),
        head=folder / HEAD_FILE if model.head else None,
        source=replace(model.source, hidden=hidden, heads=heads),
    )


def _make(
    out: Path,
    model: TextModel,
    config: DistilConfig,
    job: Job,
    tasks: list[Task],
    lessons: Lessons,
    processes: Processes,
    checkpoint: Checkpoint,
) -> None:
    """Train; write encoder, heads and figures to `out`."""
    started = time.monotonic()
    longest = _longest(config, job)
    with processes.first_here_goes_first():
        teachers = teachers_of(tasks, lessons, job, longest)
    seed_torch(job.recipe.seed)
    processes.share_cores()
    with processes.first_here_goes_first():
        network = make_student(model, config, job)
    original = load_encoder(model.original.encoder)
    before = _parameters(original) + _parameters(teachers[0].head)
    after = _parameters(network)
    lecture = Lecture(
        lessons=lessons,
        texts=encode(load_tokenizer(model.tokenizer.path, max_length=longest), lessons.texts),
        teachers=teachers,
        live=_live(original, config) if config.live else None,
        config=config,
        precision=training_precision(config.precision),
        seed=_seed(model, job),
        pad_id=model.source.pad_id,
    )
    learner = _learner(network, lecture, tasks)
    taught = train(learner, lecture, processes, checkpoint, job.progress)
    if not processes.first_here:
        return
    exact = replace(lecture, precision="float32")
    held: dict[str, Any] = {"n": int(lessons.held_out.sum())}
    held |= {
        name: round(value, 5) for name, value in measure(learner, exact, processes.device).items()
    }
    _save(learner.to("cpu"), tasks, out)
    figures = {
        "rows": int((~lessons.held_out).sum()),
        "epochs": config.epochs,
        "steps": taught.points[-1][0],
        "precision": lecture.precision,
        "parameters": [before, after],
        "history": taught.points,
        "held_out": held,
        "tasks": [task.name for task in tasks],
        "processes": processes.count,
        "seconds": round(time.monotonic() - started, 2),
        "training_seconds": taught.seconds,
    }
    (out / FIGURES_FILE).write_text(json.dumps(figures) + "\n")


def _seed(model: TextModel, job: Job) -> int:
    """Of the order of batches: another one for a student that goes on from a training before."""
    return int.from_bytes(
        hashlib.sha256(f"{job.recipe.seed} {model.encoder_sha256}".encode()).digest()[:8], "big"
    )


def _parameters(module: torch.nn.Module | None) -> int:
    return sum(one.numel() for one in module.parameters()) if module else 0


def _live(original: Any, config: DistilConfig) -> Observed:
    for parameter in original.parameters():
        parameter.requires_grad = False
    return Observed(original, hidden=bool(config.hidden), relation=bool(config.relation))


def _learner(network: TextNetwork, lecture: Lecture, tasks: list[Task]) -> Learner:
    """The student with a head for each task; the heads stay as they are where no loss asks them."""
    config = lecture.config
    observed = Observed(network.encoder, hidden=bool(config.hidden), relation=bool(config.relation))
    wider, widened = lecture.teachers[0].pooled, []
    if wider.shape[1] != _width(network):
        widened = projections(observed, lecture.live, lecture.texts, wider, lecture.pad_id)
    heads = {} if network.head is None else {OWN: network.head}
    for place, task in enumerate(tasks[1:], start=1):
        heads[str(place)] = _other_head(task, network)
    learner = Learner(observed, heads, widened)
    if config.fake_quantize:
        put_fakes(learner, config.fake_quantize)
    if not (config.soft or config.label):
        learner.heads.requires_grad_(False)
    return learner


def _width(network: TextNetwork) -> int:
    config: Any = network.encoder.config
    return int(config.hidden_size)


def _other_head(task: Task, network: TextNetwork) -> torch.nn.Linear:
    """Another task's head: its teacher's, where the student is as wide, else a new one."""
    assert task.model.head is not None
    found = load_head(task.model.head.parent)
    width = _width(network)
    return found if found.in_features == width else new_head(width, found.out_features)


def _save(learner: Learner, tasks: list[Task], out: Path) -> None:
    """The encoder, the own task's head beside it, further tasks' heads in folders of their name."""
    save_encoder(learner.observed.encoder, out / "encoder")
    for (place, head), task in zip(learner.heads.items(), tasks, strict=False):
        folder = out if place == OWN else out / "tasks" / task.name
        folder.mkdir(parents=True, exist_ok=True)
        assert isinstance(head, torch.nn.Linear)
        save_head(head, folder)
