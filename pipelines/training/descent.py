"""Gradient descent of the neural net, epoch by epoch, with early stopping and checkpoints.

All that changes is in the state: weights, optimizer, generators, the best epoch so far. It is saved after every epoch,
and going on from it gives the same bytes as never having stopped.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipelines.training.checkpoints import Checkpoint
from pipelines.training.hardware import Hardware
from pipelines.training.plan import NeuralNet
from pipelines.training.rows import OnStep

_SCORE_ROWS = 8192


class Inputs(NamedTuple):
    """Prepared rows as tensors: scaled numbers and indicators (float32), rows of the table of embeddings (int64)."""

    dense: Any
    rows: Any

    def on(self, device: str) -> "Inputs":
        """The same on a device."""
        return Inputs(self.dense.to(device), self.rows.to(device))


class Labelled(NamedTuple):
    """Inputs with their labels, 0 or 1 (float64)."""

    inputs: Inputs
    labels: NDArray[np.float64]


class Descent:
    """A net on its way down. `unseen` is the row of the table that stands for no word, for each vocabulary."""

    def __init__(self, net: Any, parameters: NeuralNet, seed: int, unseen: Any, hardware: Hardware) -> None:
        import torch

        self.net = net.to(hardware.device)
        self.curve: list[dict[str, float]] = []
        self.epoch = self.best_epoch = 0
        self._best, self._best_weights = np.inf, net.state_dict()
        self._parameters, self._hardware, self._unseen = parameters, hardware, unseen.to(hardware.device)
        self._order = torch.Generator().manual_seed(seed)
        self._optimizer = torch.optim.AdamW(
            net.parameters(), lr=parameters.learning_rate, weight_decay=parameters.weight_decay
        )
        self._scaler = torch.amp.GradScaler(hardware.device, enabled=hardware.scales_loss)

    def run(
        self,
        train: Labelled,
        stopping: Labelled | None,
        epochs: int,
        checkpoint: Checkpoint,
        progress: Callable[[str], None],
        on_step: OnStep | None,
    ) -> None:
        """Up to `epochs`; with rows to stop by, until their loss has not fallen for `patience` epochs, and back to it.

        `on_step` hears of every epoch with rows to stop by, of those before an interruption again.

        Raises:
            ValueError: the loss is no number any more.
        """
        if (state := checkpoint.read()) is not None:
            self._restore(state)
            progress(f"neural net: going on after epoch {self.epoch} of {epochs}, from a checkpoint")
            for point in self.curve:
                if on_step is not None:
                    on_step(int(point["step"]), point["validation_log_loss"])
        train = train._replace(inputs=train.inputs.on(self._hardware.device))
        stopping = stopping and stopping._replace(inputs=stopping.inputs.on(self._hardware.device))
        while self.epoch < epochs and (stopping is None or self.epoch - self.best_epoch < self._parameters.patience):
            self.epoch += 1
            loss = self._pass_over(train)
            told = f"neural net: epoch {self.epoch} of {epochs}"
            if stopping is None:
                progress(f"{told} on {len(train.labels):,} rows")
            else:
                found = self._judge(loss, stopping)
                progress(f"{told}, log loss {found:.4f} on {len(stopping.labels):,} rows to stop by")
                if on_step is not None:
                    on_step(self.epoch, found)
            checkpoint.save(self._state())
        if stopping is not None:
            self.net.load_state_dict(self._best_weights)
        self.net.to("cpu").eval()

    def _pass_over(self, train: Labelled) -> float:
        """One epoch; the mean loss over its batches."""
        import torch

        self.net.train()
        device, (dense, rows) = self._hardware.device, train.inputs
        labels = torch.from_numpy(train.labels.astype(np.float32)).to(device)
        loss_of = torch.nn.BCEWithLogitsLoss()
        whole = 0.0
        for chosen in torch.randperm(len(labels), generator=self._order).split(self._parameters.batch_rows):
            hidden = torch.rand((len(chosen), rows.shape[1]), generator=self._order) < self._parameters.unseen_share
            batch = chosen.to(device)
            words = torch.where(hidden.to(device), self._unseen, rows[batch])
            with torch.autocast(device, self._hardware.dtype, enabled=self._hardware.autocast is not None):
                loss = loss_of(forward(self.net, Inputs(dense[batch], words)), labels[batch])
            self._optimizer.zero_grad()
            self._scaler.scale(loss).backward()
            self._scaler.step(self._optimizer)
            self._scaler.update()
            whole += loss.item() * len(chosen)
        self._refuse_divergence(whole)
        return whole / len(labels)

    def _judge(self, train_loss: float, stopping: Labelled) -> float:
        odds = log_odds(self.net, stopping.inputs)
        found = float(np.logaddexp(0, np.where(stopping.labels == 1, -odds, odds)).mean())
        self._refuse_divergence(found)
        self.curve.append({"step": self.epoch, "train_log_loss": train_loss, "validation_log_loss": found})
        if found < self._best:
            self._best, self.best_epoch = found, self.epoch
            self._best_weights = {name: tensor.clone() for name, tensor in self.net.state_dict().items()}
        return found

    def _refuse_divergence(self, loss: float) -> None:
        if not np.isfinite(loss):
            raise ValueError(f"neural net: the loss is {loss} after epoch {self.epoch}: lower the learning_rate")

    def _state(self) -> dict[str, Any]:
        import torch

        on_gpu = self._hardware.device == "cuda"
        return {
            "epoch": self.epoch,
            "best": self._best,
            "best_epoch": self.best_epoch,
            "best_weights": self._best_weights,
            "curve": self.curve,
            "weights": self.net.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "scaler": self._scaler.state_dict(),
            "order": self._order.get_state(),
            "dropout": torch.random.get_rng_state(),
            "gpu_dropout": torch.cuda.get_rng_state() if on_gpu else None,
        }

    def _restore(self, state: dict[str, Any]) -> None:
        import torch

        self.net.load_state_dict(state["weights"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._scaler.load_state_dict(state["scaler"])
        self._order.set_state(state["order"].cpu())
        torch.random.set_rng_state(state["dropout"].cpu())
        if state["gpu_dropout"] is not None:
            torch.cuda.set_rng_state(state["gpu_dropout"].cpu())
        self.epoch, self.curve = state["epoch"], state["curve"]
        self._best, self.best_epoch, self._best_weights = state["best"], state["best_epoch"], state["best_weights"]


def forward(net: Any, inputs: Inputs) -> Any:
    """The log odds of a batch, shape (rows,), as a tensor."""
    import torch

    flow = inputs.dense
    if "embeddings" in net:
        flow = torch.cat([flow, net["embeddings"](inputs.rows).flatten(1)], dim=1)
    return net["layers"](flow).squeeze(1)


def log_odds(net: Any, inputs: Inputs) -> NDArray[np.float64]:
    """The log odds of many rows, shape (rows,), in float32 whatever it was trained in."""
    import torch

    net.eval()
    with torch.inference_mode():
        batches = zip(inputs.dense.split(_SCORE_ROWS), inputs.rows.split(_SCORE_ROWS), strict=True)
        parts = [forward(net, Inputs(*batch)) for batch in batches]
        return np.asarray(torch.cat(parts).cpu().numpy(), dtype=np.float64)
