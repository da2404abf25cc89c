"""A checkpoint in; its scores on the configured benchmarks, and a table, out: the command ``pcr-eval``.

May import cli, configuration, distributed, evaluation, model, records, report, reward, rollout, run and task.
"""
