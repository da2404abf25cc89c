from dataclasses import dataclass
from hydra.core.config_store import ConfigStore
from hydra.plugins.launcher import Launcher
@dataclass
class CellsConf:
    _target_: str = "hydra_plugins.pcr_cells.CellsLauncher"
    parallel: int = 1
ConfigStore.instance().store(group="hydra/launcher", name="cells", node=CellsConf, provider="pcr_run")
class CellsLauncher(Launcher):
    def __init__(self, parallel: int): self.parallel = parallel
    def setup(self, *, hydra_context, task_function, config): self.config=config; self.ctx=hydra_context
    def launch(self, job_overrides, initial_job_idx):
        print("LAUNCH", job_overrides, self.config.hydra.sweep.dir, self.parallel)
        return []
