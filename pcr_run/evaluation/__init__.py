"""A policy in; Pass@1 with its standard error, and perplexity of texts, out. May import model and reward."""

from pcr_run.evaluation.evaluation import Evaluator, Questions, difference, pass_at_1

__all__ = ["Evaluator", "Questions", "difference", "pass_at_1"]
