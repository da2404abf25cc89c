"""Shapes in annotations: checked in these tests, and named by one vocabulary."""

import re
from pathlib import Path

import pytest
import torch
from jaxtyping import TypeCheckError

import pcr_run
from pcr_run.gradients.norms import row_squares
from pcr_run.ragged import Ragged, taken

AXES = {
    "rows": "responses, of a batch or of a part of it",
    "length": "positions of a row, padding included",
    "tokens": "all tokens of some rows, one after the other",
    "sampled": "those of them that were sampled and count",
    "block": "some of these, whose logits are made at once",
    "chosen": "those of some of the rows",
    "borders": "where rows begin, and the end of the last",
    "width": "the model's hidden size",
    "vocabulary": "token ids",
    "fan_in": "inputs of a linear layer",
    "fan_out": "its outputs",
    "heads": "attention heads of queries",
    "groups": "parameter groups; prompts; attention heads of keys and values",
    "size": "width of a head",
    "value_size": "width of a head's values",
    "parameters": "named parameters",
    "names": "the same",
    "shape": "whatever the other tensors have",
    "_": "a weight's two dimensions, in either layout",
}
"""Every axis that an annotation may name."""


def test_annotations_share_one_vocabulary() -> None:
    found: set[str] = set()
    for file in Path(pcr_run.__file__).parent.rglob("*.py"):
        for axes in re.findall(r"(?:Float|Int|Bool|Shaped)\[Tensor, \"([^\"]*)\"\]", file.read_text()):
            found |= {axis.lstrip("*#") for axis in axes.split()}
    assert found == set(AXES)


def test_a_wrong_shape_is_noticed() -> None:
    with pytest.raises(TypeCheckError):
        row_squares(torch.zeros(2, 3, 3), torch.zeros(2, 4, 5))


def test_rows_of_different_lengths_come_back() -> None:
    rows = Ragged((3, 1, 2), torch.device("cpu"))
    flat = torch.arange(12.0).view(6, 2)
    padded = rows.pad(flat)
    assert padded.shape == (3, 3, 2)
    assert padded[1].tolist() == [[6.0, 7.0], [0.0, 0.0], [0.0, 0.0]]
    assert torch.equal(rows.flat(padded), flat)
    assert rows.positions.tolist() == [0, 1, 2, 0, 0, 1]
    assert rows.tokens([2, 0]).tolist() == [4, 5, 0, 1, 2]
    assert rows.only([2, 0]).lengths == (2, 3)
    blocks, back = Ragged((9, 1, 30, 10, 2), torch.device("cpu")).alike
    assert [block.lengths for _, block in blocks] == [(1, 2), (9, 10), (30,)]
    assert torch.equal(torch.cat([taken(torch.arange(52), where) for where, _ in blocks])[back], torch.arange(52))


def test_blocks_of_rows_that_are_equally_long_need_no_padding_and_neighbours_no_copy() -> None:
    rows = Ragged((4, 4, 2, 4, 3, 3), torch.device("cpu"))
    blocks = rows.blocks(0.0)
    assert [block.lengths for _, block in blocks] == [(2,), (3, 3), (4, 4, 4)]
    assert [where for where, _ in blocks[:2]] == [slice(8, 10), slice(14, 20)]
    assert taken(torch.arange(20), blocks[2][0]).tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 10, 11, 12, 13]
    assert rows.blocks(0.0) is blocks
