"""A policy in; scores of its answers with their standard errors, and perplexity, out. May import model and reward."""

from pcr_run.evaluation.cache import Cache, MissingError
from pcr_run.evaluation.evaluation import Evaluator, Questions
from pcr_run.evaluation.harness import Harness
from pcr_run.evaluation.piece import Piece, record
from pcr_run.evaluation.scores import difference, pass_at_1

__all__ = ["Cache", "Evaluator", "Harness", "MissingError", "Piece", "Questions", "difference", "pass_at_1", "record"]
