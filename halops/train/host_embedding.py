"""The input embedding in host memory: a gigabyte less on the card for a model with a large vocabulary."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class HostEmbedding(torch.nn.Module):
    """Looks tokens up in host memory and sends the rows to the GPU.

    The table is no parameter: whatever moves a model to a device would move it too.
    """

    def __init__(self, table: Tensor, device: torch.device) -> None:
        super().__init__()
        self._table, self._device = [table], device

    def forward(self, ids: Tensor) -> Tensor:
        rows = torch.nn.functional.embedding(ids.cpu(), self._table[0])
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
