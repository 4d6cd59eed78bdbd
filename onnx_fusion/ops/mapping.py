"""The five mapping types of DNNFusion (PLDI 2021, Table 2), and opaque."""

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
