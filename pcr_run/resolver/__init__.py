"""Five numbers per parameter group in; the two weights of an update out. May import nothing."""

from pcr_run.resolver.base import Projection, Resolver
from pcr_run.resolver.make import RULES, from_config, make
from pcr_run.resolver.table import GradientTable, variance_alpha

__all__ = ["RULES", "GradientTable", "Projection", "Resolver", "from_config", "make", "variance_alpha"]
