"""Hydra launcher ``evaluations``: the default of ``pcr-eval -m``. Every model is measured by a fresh process."""

from collections.abc import Sequence
from pathlib import Path

from hydra.core.config_store import ConfigStore

from hydra_plugins.pcr_cells import Cell, CellsConf, CellsLauncher
from pcr_run.schema import Config


class EvaluationsLauncher(CellsLauncher):
    """Measures several models, then writes and prints their table; what is there already only costs reading."""

    module = "pcr_run.eval.cli"

    def _check(self, cfg: Config) -> None:
        from pcr_run.eval.cli import check_evaluation

        check_evaluation(cfg)

    def _done(self, cell: Cell) -> bool:
        return False  # only its weights can tell whether what is there is still true

    def _show(self, cells: Sequence[tuple[Config, Path]]) -> None:
        from pcr_run.eval import dry_run

        dry_run.cells(cells)

    def _conclude(self, cells: Sequence[Cell]) -> None:
        from pcr_run.eval import table

        table.show([cell.directory for cell in cells], self.sweep)

    def _report(self, cells: Sequence[Cell]) -> None:
        pass  # the table is all


ConfigStore.instance().store(
    group="hydra/launcher",
    name="evaluations",
    node=CellsConf(_target_="hydra_plugins.pcr_evaluations.EvaluationsLauncher"),
    provider="pcr_run",
)
