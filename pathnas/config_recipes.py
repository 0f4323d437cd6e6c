"""The settings of a training in the YAML: of a whole one, and of a trial."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, JsonValue, ValidationInfo, field_validator

from pathnas.config_networks import Model
from pathnas.config_types import BelowOne, LearningRate, Pixels, Share

LATER: dict[str, JsonValue] = {"later": True}
"""Of a setting that came later: by its default a training is what it was before."""


class Augment(Model):
    """Random changes of the training images."""

    crop: Pixels = 0
    """padding in pixels for a random crop; 0: none"""
    flip: bool = False
    """mirror half of the images left to right"""
    cutout: Pixels = 0
    """side in pixels of a square set to zero; 0: none"""


class Recipe(Model):
    """How a network is trained: SGD with the paper's settings."""

    epochs: Annotated[int, Field(ge=0, le=10_000)]
    """passes over the training images"""
    batch_size: Annotated[int, Field(ge=1, le=65_536)] = 64
    """images a step"""
    learning_rate: LearningRate = 0.1
    """learning rate at its highest"""
    momentum: BelowOne = 0.9
    """momentum of SGD"""
    nesterov: bool = True
    """Nesterov's momentum"""
    weight_decay: Share = 1e-4
    """weight decay"""
    schedule: Literal["cosine", "constant"] = "cosine"
    """the learning rate over the training"""
    warmup_epochs: Annotated[float, Field(ge=0, le=10_000)] = 0.0
    """epochs over which the learning rate rises from 0"""
    label_smoothing: BelowOne = 0.0
    """share of the target that is spread over all classes"""
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    """number format of the autocast"""
    drop_path: BelowOne = 0.0
    """how often a branch that is added is dropped, at most"""
    drop_path_schedule: Literal["linear", "constant"] = "linear"
    """whether that rate rises from 0 over the training"""
    augment: Augment = Augment()
    """random changes of the training images"""


class Distill(Model):
    """The distillation of `birth: distilled`, from the base network's logits."""

    epochs: Annotated[int, Field(ge=1, le=10_000)] = 1
    """passes over the training images, the first of the training's epochs"""
    learning_rate: LearningRate = 0.01
    """learning rate at its highest"""


class TrialRecipe(Recipe):
    """How a candidate is trained in a trial (section 4.1 of the paper)."""

    epochs: Annotated[int, Field(ge=0, le=10_000)] = 20
    """passes over the training images"""
    learning_rate: LearningRate = 0.035
    """learning rate at its highest"""
    birth: Literal["gated", "hard", "distilled"] = "gated"
    """new operations that are no identities fade in, are there at once, or that and distillation"""
    distill: Annotated[Distill, Field(validate_default=True)] = Distill()
    """the distillation of birth: distilled"""
    inherit_optimizer: bool = False
    """begin with the base network's momentum"""
    gate_fraction: Annotated[float, Field(gt=0, le=1)] = 0.1
    """share of the trial over which the gate falls to 0"""
    average_fraction: Annotated[Share, Field(json_schema_extra=LATER)] = 0.0
    """share of the trial's steps, the last, whose weights are averaged for validation; 0: none"""
    noise: Share = 6e-3
    """symmetry-breaking noise on replicas, in standard deviations of the weight"""

    @field_validator("distill")
    @classmethod
    def _some_training_is_left(cls, distill: Distill, info: ValidationInfo) -> Distill:
        epochs = info.data.get("epochs", distill.epochs + 1)
        if info.data.get("birth") == "distilled" and distill.epochs >= epochs:
            raise ValueError(f"epochs must be below those of the training, {epochs}")
        return distill
