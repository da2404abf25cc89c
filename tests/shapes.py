"""The check of annotated shapes at run time; production runs without it."""

from beartype import BeartypeConf, beartype

RULES = (
    "table",
    "base",
    "none",
    "pcgrad",
    "pcr",
    "pcr_literal",
    "weighting",
    "mgs",
    "mgda",
    "gac",
    "shrink",
)  # the others are given wrong options in tests
MODULES = [
    *(f"pcr_run.{name}" for name in ("ragged", "gradients", "learner", "model.policy", "model.packing")),
    *(f"pcr_run.resolver.{name}" for name in RULES),
]
check = beartype(conf=BeartypeConf(is_pep484_tower=True))
"""A float may be given as an int."""
