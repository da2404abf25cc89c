import hydra
from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf
from pcr_run.config import Config
ConfigStore.instance().store(name="schema", node=Config)
OmegaConf.register_new_resolver("config_hash", lambda *, _root_: "abc")
OmegaConf.register_new_resolver("sweep_hash", lambda x: "abc")
@hydra.main(config_path="pkg://pcr_run.conf", config_name="config", version_base="1.3")
def job(c):
    print(OmegaConf.to_object(c).task)
def main():
    job()
