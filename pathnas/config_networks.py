"""The options of the networks, as they stand in the YAML: a strict typed model for each."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo, field_validator

Width: TypeAlias = Annotated[int, Field(ge=1, le=4096)]
Depth: TypeAlias = Annotated[int, Field(ge=1, le=100)]
Cells: TypeAlias = Annotated[int, Field(ge=0, le=100)]
Groups: TypeAlias = Annotated[int, Field(ge=1, le=64, validate_default=True)]
Times: TypeAlias = Annotated[int, Field(ge=1, le=16)]

CHECKED = Field(validate_default=True)


def to_tuple(value: Any) -> Any:
    """YAML has lists where the models have tuples, which cannot change."""
    items = tuple(value) if isinstance(value, list) else value
    if isinstance(items, tuple) and not 1 <= len(items) <= 64:
        raise ValueError(f"must have 1 to 64 items, got {len(items)}")
    return items


class Model(BaseModel):
    """A section of the file: every key known, every type strict, unchangeable."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        frozen=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
    )


class _Stages(Model):
    widths: Annotated[tuple[Width, ...], BeforeValidator(to_tuple)]
    """channels of each stage; a 2x2 stride between stages"""
    cells: Annotated[int, Field(ge=1, le=100)]
    """cells a stage"""
    stem: Width | None = None
    """channels of the stem; null: the network's choice"""
    groups: Annotated[int, Field(ge=1, le=64)] = 1
    """groups of the convolutions that the cells replace"""

    @field_validator("groups")
    @classmethod
    def _divide(cls, groups: int, info: ValidationInfo) -> int:
        # The stem's channels enter the first grouped convolution.
        widths = (*info.data.get("widths", ()), info.data.get("stem") or groups)
        uneven = [width for width in widths if width % groups]
        if uneven:
            raise ValueError(f"must divide every width and the stem, got {groups} for {uneven[0]}")
        return groups


class Chain(_Stages):
    """A chain of cells."""

    name: Literal["chain"] = "chain"
    """kind of network"""
    activation: Literal["pre", "post"] = "post"
    """whether batch norm and ReLU come before or after a convolution"""


class Residual(_Stages):
    """Cells with shortcuts around them."""

    name: Literal["residual"] = "residual"
    """kind of network"""
    activation: Literal["pre", "post"] = "pre"
    """whether batch norm and ReLU come before or after a convolution"""


class PyramidNet(Model):
    """A network whose blocks grow wider step by step; the paper's by default."""

    name: Literal["pyramidnet"] = "pyramidnet"
    """kind of network"""
    blocks: Depth = 18
    """blocks a stage"""
    alpha: Annotated[float, Field(ge=0, le=4096)] = 84.0
    """channels by which the last bottleneck is wider than the stem"""
    stages: Annotated[int, Field(ge=1, le=8)] = 3
    """stages; a 2x2 stride between them"""
    stem: Width = 16
    """channels of the stem"""
    expansion: Times = 4
    """channels of a block's output, as a multiple of its bottleneck's"""
    groups: Groups = 2
    """groups of the convolutions that the cells replace"""

    @field_validator("groups")
    @classmethod
    def _fit(cls, groups: int, info: ValidationInfo) -> int:
        stem = info.data.get("stem", groups)
        if groups > stem:
            raise ValueError(f"must be at most the stem's channels, got {groups} for {stem}")
        return groups


class DenseNet(Model):
    """DenseNet-BC; the paper's by default."""

    name: Literal["densenet"] = "densenet"
    """kind of network"""
    layers: Depth = 16
    """layers a stage"""
    growth: Width = 48
    """channels that a layer adds"""
    stages: Annotated[int, Field(ge=1, le=8)] = 3
    """stages; 2x2 pooling between them"""
    bottleneck: Times = 4
    """channels of a layer's 1x1 convolution, as a multiple of the growth"""
    groups: Groups = 2
    """groups of the convolutions that the cells replace"""

    @field_validator("groups")
    @classmethod
    def _divide(cls, groups: int, info: ValidationInfo) -> int:
        growth = info.data.get("growth", groups)
        if growth % groups:
            raise ValueError(f"must divide the growth, got {groups} for {growth}")
        return groups


class CondenseNet(Model):
    """A dense network with learned groups; the paper's for ImageNet by default."""

    name: Literal["condensenet"] = "condensenet"
    """kind of network"""
    layers: Annotated[tuple[Depth, ...], BeforeValidator(to_tuple)] = (4, 6, 8, 10, 8)
    """layers of each stage; 2x2 pooling between stages"""
    growth: Annotated[tuple[Width, ...], BeforeValidator(to_tuple), CHECKED] = (8, 16, 32, 64, 128)
    """channels that a layer of each stage adds"""
    cells: Annotated[tuple[Cells, ...], BeforeValidator(to_tuple), CHECKED] = (0, 0, 6, 7, 6)
    """how many of the last layers of each stage hold cells"""
    bottleneck: Times = 4
    """channels of a layer's 1x1 convolution, as a multiple of the growth"""
    groups: Groups = 8
    """groups of the convolutions that the cells replace"""
    learned_groups: Groups = 4
    """groups of the 1x1 convolutions"""
    condensation: Annotated[int, Field(ge=1, le=64)] = 4
    """a learned group keeps one in so many inputs"""
    lasso: Annotated[float, Field(ge=0, le=1)] = 1e-5
    """weight of the group lasso"""
    stride: Annotated[int, Field(ge=1, le=2)] = 2
    """stride of the stem"""

    @field_validator("growth", "cells")
    @classmethod
    def _stages(cls, values: tuple[int, ...], info: ValidationInfo) -> tuple[int, ...]:
        layers = info.data.get("layers", values)
        if len(values) != len(layers):
            raise ValueError(f"must have as many items as layers, {len(layers)}, got {len(values)}")
        if info.field_name == "cells" and not any(values):
            raise ValueError("must not all be 0")
        for held, depth in zip(values, layers, strict=True):
            if info.field_name == "cells" and held > depth:
                raise ValueError(f"must be at most the stage's layers, got {held} for {depth}")
        return values

    @field_validator("groups", "learned_groups")
    @classmethod
    def _divide(cls, groups: int, info: ValidationInfo) -> int:
        learned = info.field_name == "learned_groups"
        times = info.data.get("bottleneck", groups) if learned else 1
        for growth in info.data.get("growth", ()):
            if growth * times % groups:
                what = "bottleneck x growth" if learned else "every growth"
                raise ValueError(f"must divide {what}, got {groups} for {growth * times}")
        return groups


Network: TypeAlias = Chain | Residual | PyramidNet | DenseNet | CondenseNet
"""The options of any network; told apart by their names."""
