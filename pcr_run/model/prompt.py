"""The prompt of one question as the policy will see it. A process of its own: the dry run loads no transformers.

``python -m pcr_run.model.prompt`` reads a configuration (YAML) from standard input and writes one JSON line.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from omegaconf import OmegaConf

from pcr_run import model, task
from pcr_run.data import Item
from pcr_run.errors import ConfigError
from pcr_run.model import builtin
from pcr_run.schema import Config


def render(cfg: Config) -> dict[str, Any]:
    """``text`` with special tokens, number of ``tokens``, id of the ``item``, whether a thought is ``opened``.

    Raises ``ConfigError`` where the template fails.
    """
    made = builtin.directory(cfg.model.builtin) if cfg.model.path is None else None
    if made is not None and not made.is_dir():
        raise FileNotFoundError("the built-in model is made at the first run")
    chat = model.chat(cfg.model, model.tokenizer(cfg.model))
    try:
        item = task.make(cfg.task, cfg.seed).train[0]
    except ConfigError:  # the data set is not here
        item = placeholder(**cfg.task.data)
    ids = chat.encode(item)
    text = chat.tokenizer.decode(ids, skip_special_tokens=False)
    return {"text": text, "tokens": len(ids), "item": item.id, "opened": chat.opened}


def placeholder(system: str | None = None, suffix: str = "", **_: Any) -> Item:
    """A question in the place of the first one of a data set that is not here."""
    system_message = ({"role": "system", "content": system},) if system else ()
    return Item("", (*system_message, {"role": "user", "content": f"(a question){suffix}"}), "")


def main() -> None:
    """See the module."""
    merged = OmegaConf.merge(OmegaConf.structured(Config), OmegaConf.create(sys.stdin.read()))
    cfg: Any = OmegaConf.to_object(merged)
    try:
        found = render(cfg)
    except ConfigError as error:
        found = {"key": error.key, "problem": error.problem}
    except FileNotFoundError as error:
        found = {"missing": str(error)}
    except OSError:
        found = {"missing": "the tokenizer is not on this machine yet"}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
