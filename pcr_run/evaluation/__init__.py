"""A policy in; scores of its answers with their standard errors, and perplexity, out. May import model and reward."""

from pcr_run.evaluation.evaluation import Evaluator, Questions
from pcr_run.evaluation.scores import difference, pass_at_1

__all__ = ["Evaluator", "Questions", "difference", "pass_at_1"]
