"""On what a net is trained: a GPU in mixed precision where there is one, otherwise the CPU in float32.

On the CPU the same input gives the same bytes. A GPU adds up in another order from run to run, so there only
predictions are alike.
"""

from typing import Any, Literal, NamedTuple

Device = Literal["auto", "cpu", "cuda"]


class Hardware(NamedTuple):
    """A torch device, and the type in which matrix products are computed on it; None keeps float32."""

    device: str
    autocast: Literal["bfloat16", "float16"] | None = None

    @property
    def scales_loss(self) -> bool:
        """float16 has too few exponents for small gradients; bfloat16 has those of float32."""
        return self.autocast == "float16"

    @property
    def dtype(self) -> Any:
        """The torch type of `autocast`."""
        import torch

        return None if self.autocast is None else getattr(torch, self.autocast)

    def __str__(self) -> str:
        return f"{self.device} in {'float32' if self.autocast is None else f'mixed precision ({self.autocast})'}"


CPU = Hardware("cpu")


def choose_hardware(wanted: Device, gpu: bool, bfloat16: bool) -> Hardware:
    """What to train on, when there is a GPU or not, and it computes in bfloat16 or not.

    Raises:
        ValueError: a GPU is wanted, and there is none.
    """
    if wanted == "cuda" and not gpu:
        raise ValueError("device: found cuda, but torch sees no GPU here: say auto, which takes one where there is one")
    if wanted == "cpu" or not gpu:
        return CPU
    return Hardware("cuda", "bfloat16" if bfloat16 else "float16")


def find_hardware(wanted: Device) -> Hardware:
    """What to train on here; see `choose_hardware`."""
    import torch

    gpu = torch.cuda.is_available()
    return choose_hardware(wanted, gpu, gpu and torch.cuda.is_bf16_supported())
