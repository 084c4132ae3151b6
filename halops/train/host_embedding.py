"""The input embedding in host memory: a gigabyte less on the card for a model with a large vocabulary."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from halops.train.fused.launch import by_triton
from halops.train.pinned import pin


class HostEmbedding(torch.nn.Module):
    """Looks tokens up in host memory.

    A pinned table is read by the GPU itself, so that no micro-batch waits for the one before; out of any other the
    host picks the rows. The table is no parameter: whatever moves a model to a device would move it too.
    """

    def __init__(self, table: Tensor, device: torch.device) -> None:
        super().__init__()
        self._table, self._device = [table], device
        if device.type == "cuda":
            pin(table, "the embedding")

    def forward(self, ids: Tensor) -> Tensor:
        table = self._table[0]
        if by_triton(ids) and (table.is_pinned() or ids.device == table.device):
            from halops.train.fused.lookup_triton import lookup

            made = torch.empty(*ids.shape, table.shape[1], dtype=table.dtype, device=ids.device)
            lookup(table, ids.flatten(), made)
            return made
        rows = torch.nn.functional.embedding(ids.cpu(), table)
        return (rows.pin_memory() if self._device.type == "cuda" else rows).to(self._device, non_blocking=True)


def move_embedding(model: Any) -> bool:
    """Move a causal model's input embedding to the host; False where it is the output head too."""
    own = model.get_input_embeddings()
    if own.weight.data_ptr() == model.get_output_embeddings().weight.data_ptr():
        return False
    device = own.weight.device
    model.set_input_embeddings(HostEmbedding(own.weight.detach().cpu(), device))
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return True
