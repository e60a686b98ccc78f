"""One model in memory, and any number of LoRA adapters merged over it, one at a time.

An adapter changes some weight matrices. Their merged versions are kept (least recently used first out, bounded in
bytes), and using an adapter means pointing the layers at them: nothing is computed per token, and the base weights are
never written to.
"""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

import torch
from torch import nn

from btlib.errors import BtlibError
from btlib.lm.quiet import without_bars

Overlay = list[tuple[nn.Module, torch.Tensor]]


class Weights:
    """The model of an engine. Only the engine's thread calls `use`."""

    def __init__(self, model: nn.Module, max_bytes: int = 2 << 30):
        self.model = model
        self.max_bytes = max_bytes
        self._overlays: OrderedDict[str, Overlay] = OrderedDict()
        self._base: Overlay = []
        self._current: str | None = None

    def use(self, model_id: str, adapter: Path | None) -> None:
        """Make the model compute with an adapter (a PEFT folder), or with the base weights where it is None."""
        if model_id == self._current:
            return
        for module, weight in self._base:
            module.weight.data = weight
        self._current, self._base = None, []
        if adapter is not None:
            if model_id not in self._overlays:
                self._overlays[model_id] = merged(self.model, adapter)
            self._overlays.move_to_end(model_id)
            overlay = self._overlays[model_id]
            self._base = [(module, module.weight.data) for module, _ in overlay]
            for module, weight in overlay:
                module.weight.data = weight
            self._evict()
        self._current = model_id

    def _evict(self) -> None:
        while len(self._overlays) > 1 and self.nbytes > self.max_bytes:
            self._overlays.popitem(last=False)

    @property
    def nbytes(self) -> int:
        """Bytes of merged weights that are kept beside the model."""
        return sum(weight.nbytes for overlay in self._overlays.values() for _, weight in overlay)


@torch.no_grad()
def merged(model: nn.Module, adapter: Path) -> Overlay:
    """Return each layer that a LoRA adapter changes with its merged weight; the model is as before afterwards."""
    from peft import PeftConfig, PeftModel
    from peft.tuners.lora import Linear

    config = PeftConfig.from_pretrained(str(adapter))
    if config.peft_type != "LORA" or getattr(config, "use_dora", False) or getattr(config, "modules_to_save", None):
        raise BtlibError(f"adapter {adapter} is not a plain LoRA adapter; train one with train_lora")
    with without_bars():
        peft_model = PeftModel.from_pretrained(model, str(adapter), is_trainable=False, use_safetensors=True)
    try:
        layers = [layer for layer in peft_model.modules() if isinstance(layer, Linear)]
        overlay = []
        for layer in layers:
            base = layer.get_base_layer()
            delta = layer.get_delta_weight("default").to(base.weight.device, torch.float32)
            overlay.append((base, (base.weight.float() + delta).to(base.weight.dtype)))
    finally:
        peft_model.unload()
        if hasattr(model, "peft_config"):
            del model.peft_config
    if not overlay:
        raise BtlibError(f"adapter {adapter} changes no layer of this model; it was trained on another one")
    return overlay
