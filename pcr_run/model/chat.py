"""Questions as a model reads them: its chat template with what precedes an answer, and text back from token ids."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import groupby
from typing import Any

from jinja2 import TemplateError

from pcr_run.data import Item, Message
from pcr_run.errors import ConfigError

THOUGHTS = (
    *(("<think>", "</think>"), ("<thinking>", "</thinking>"), ("<thought>", "</thought>")),
    *(("<reasoning>", "</reasoning>"), ("[THINK]", "[/THINK]")),
)
"""Tags around what a model thinks before it answers, looked for in chat templates."""


@dataclass(frozen=True)
class Chat:
    """A tokenizer, the arguments of its chat template, and the tags of thoughts (None: as the template has them)."""

    tokenizer: Any
    options: Mapping[str, Any] = field(default_factory=dict)
    tags: tuple[str, str] | None = None

    def render(self, messages: Sequence[Message]) -> str:
        """The prompt's text up to where the answer begins; ConfigError where the template fails."""
        return str(self._template(messages, tokenize=False))

    def encode(self, item: Item) -> list[int]:
        """Token ids of an item's prompt; ConfigError where the template fails."""
        return list(self._template(item.prompt, return_dict=False))

    def _template(self, messages: Sequence[Message], **how: bool) -> Any:
        try:
            return self.tokenizer.apply_chat_template(list(messages), add_generation_prompt=True, **how, **self.options)
        except (TemplateError, TypeError, ValueError) as error:
            key = "model.template_options" if self.options else "model.chat_template"
            raise ConfigError(key, f"the chat template fails ({error})") from error

    def decode(self, ids: Sequence[int]) -> str:
        """Text of a response without special tokens, but with tags of thoughts.

        A thought that the prompt has opened is part of it: whoever judges must see that it is open.
        """
        return (self.thinking[0] if self.opened else "") + "".join(self._texts(ids))

    def _texts(self, ids: Sequence[int]) -> Iterator[str]:
        for tag, part in groupby(ids, key=self._special_tags.get):
            members = list(part)
            yield tag * len(members) if tag else str(self.tokenizer.decode(members, skip_special_tokens=True))

    @cached_property
    def _special_tags(self) -> dict[int, str]:
        """Tags that are special tokens, by id: these must not be skipped."""
        special = set(self.tokenizer.all_special_tokens)
        return {self.tokenizer.convert_tokens_to_ids(tag): tag for tag in self.thinking if tag in special}

    @cached_property
    def thinking(self) -> tuple[str, str]:
        """The tags around a thought: those that a prompt ends with, else those that the template mentions."""
        places = (self._end, str(self.tokenizer.chat_template))
        return self.tags or next((pair for place in places for pair in THOUGHTS if pair[0] in place), THOUGHTS[0])

    @cached_property
    def opened(self) -> bool:
        """Whether a prompt ends inside a thought."""
        return self.thinking[0] in self._end.rpartition(self.thinking[1])[2]

    @cached_property
    def _end(self) -> str:
        """What the template puts after a question."""
        mark = "Which?"
        return self.render([{"role": "user", "content": mark}]).rpartition(mark)[2]
