"""Conflict rules: from five numbers per parameter group to the two weights of an update."""

from pcr_run.resolver.base import Projection, Resolver
from pcr_run.resolver.make import RULES, from_config, make
from pcr_run.resolver.table import GradientTable, variance_alpha

__all__ = ["RULES", "GradientTable", "Projection", "Resolver", "from_config", "make", "variance_alpha"]
