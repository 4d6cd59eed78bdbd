"""The five mapping types of DNNFusion (PLDI 2021, Table 2) and opaque; the roles of many-to-many
operators."""

from __future__ import annotations

import enum


class MappingType(enum.Enum):
    """How an operator's output elements depend on its input elements."""

    ONE_TO_ONE = "one-to-one"
    ONE_TO_MANY = "one-to-many"
    MANY_TO_MANY = "many-to-many"
    REORGANIZE = "reorganize"
    SHUFFLE = "shuffle"
    OPAQUE = "opaque"


class Role(enum.Enum):
    """What a many-to-many operator does: the templates that open red cells ask for it."""

    PRODUCT = "matrix product"
    CONVOLUTION = "convolution"
    DEPTHWISE = "depthwise convolution"
    POINTWISE = "1x1 convolution"
    POOL = "pooling"
    REDUCTION = "reduction"
    NORM = "row normalization"
    SOFTMAX = "softmax"


WINDOWS = frozenset((Role.CONVOLUTION, Role.DEPTHWISE, Role.POINTWISE, Role.POOL))
"""Roles with channels on axis 1 of the first input and output, and windows that slide over the
rest."""
CONTRACTIONS = frozenset((Role.PRODUCT, Role.CONVOLUTION, Role.DEPTHWISE, Role.POINTWISE))
