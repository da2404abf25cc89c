"""A checkpoint in; its scores on the configured benchmarks, and a table, out: the command ``pcr-eval``.

May import cli, configuration, evaluation, model, records, report, reward, rollout, run and task.
"""
