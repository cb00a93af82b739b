"""Influence by EK-FAC (kronfluence) and TRAK (traker), of networks that were trained here."""

from __future__ import annotations

import tempfile
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from ._influence_learners import HEADS, LINEAR, NORMS, SIDE, WIDTH, Images


class Network(nn.Module):
    """That of `_influence_learners.network`."""

    def __init__(self, phi: dict[str, np.ndarray]) -> None:
        super().__init__()
        self.layers = _layers("network", phi)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits (n, classes) of images (n, 64)."""
        for name in ("in", "mid"):
            x = torch.tanh(self.layers[name](x))
        return self.layers["out"](x)


class Transformer(nn.Module):
    """That of `_influence_learners.transformer`."""

    def __init__(self, phi: dict[str, np.ndarray]) -> None:
        super().__init__()
        self.layers = _layers("transformer", phi)
        self.places = nn.Parameter(torch.tensor(phi["places"]))
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in NORMS)
        with torch.no_grad():
            for norm, name in zip(self.norms, NORMS, strict=True):
                norm.weight.copy_(torch.tensor(phi[name]))
                norm.bias.copy_(torch.tensor(phi[f"{name} bias"]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits (n, classes) of images (n, 64)."""
        heads = lambda h: h.reshape(*h.shape[:2], HEADS, WIDTH // HEADS).transpose(1, 2)
        h = self.layers["in"](x.reshape(-1, SIDE, SIDE)) + self.places
        normal = self.norms[0](h)
        q, k, v = (heads(self.layers[name](normal)) for name in "qkv")
        attention = torch.softmax(q @ k.transpose(2, 3) / (WIDTH / HEADS) ** 0.5, -1)
        h = h + self.layers["o"]((attention @ v).transpose(1, 2).reshape(h.shape))
        hidden = nn.functional.gelu(self.layers["up"](self.norms[1](h)), approximate="tanh")
        h = self.norms[2](h + self.layers["down"](hidden))
        return self.layers["out"](h.flatten(1))


def _layers(name: str, phi: dict[str, np.ndarray]) -> nn.ModuleDict:
    layers = nn.ModuleDict({layer: nn.Linear(*shape) for layer, shape in LINEAR[name].items()})
    with torch.no_grad():
        for layer, module in layers.items():
            module.weight.copy_(torch.tensor(phi[layer].T))
            module.bias.copy_(torch.tensor(phi[f"{layer} bias"]))
    return layers


def ported(name: str, phi: dict[str, np.ndarray]) -> nn.Module:
    """The network of that name with these weights."""
    return (Network if name == "network" else Transformer)(phi).eval()


def _sets(images: Images) -> tuple[TensorDataset, TensorDataset]:
    pair = lambda x, y: TensorDataset(torch.tensor(x), torch.tensor(y, dtype=torch.long))
    return pair(images.x, images.y), pair(images.query_x, images.query_y)


def ekfac(model: nn.Module, images: Images, damping: float | None = None) -> np.ndarray:
    """Scores (queries, examples) by kronfluence; positive: the example lowers the loss.

    Damping: None is a tenth of the mean eigenvalue, as the package proposes.
    """
    from kronfluence.analyzer import Analyzer, prepare_model
    from kronfluence.arguments import FactorArguments, ScoreArguments
    from kronfluence.task import Task

    class Classification(Task):
        """Cross-entropy, summed over a batch."""

        def compute_train_loss(
            self, batch: Any, model: nn.Module, sample: bool = False
        ) -> torch.Tensor:
            """Of the labels, or of labels that the model draws (the true Fisher)."""
            x, y = batch
            logits = model(x)
            if sample:
                drawn = torch.softmax(logits.detach(), -1)
                y = torch.multinomial(drawn, num_samples=1).flatten()
            return nn.functional.cross_entropy(logits, y, reduction="sum")

        def compute_measurement(self, batch: Any, model: nn.Module) -> torch.Tensor:
            """The loss of the queries."""
            return self.compute_train_loss(batch, model)

    train, queries = _sets(images)
    task = Classification()
    with tempfile.TemporaryDirectory() as folder:
        analyzer = Analyzer(
            "digits", prepare_model(model, task), task, cpu=True, output_dir=folder,
            disable_tqdm=True, log_level=40,
        )  # fmt: skip
        analyzer.fit_all_factors(
            "ekfac", train, per_device_batch_size=len(train),
            factor_args=FactorArguments(strategy="ekfac"),
        )  # fmt: skip
        analyzer.compute_pairwise_scores(
            "scores", "ekfac", queries, train,
            per_device_query_batch_size=len(queries), per_device_train_batch_size=len(train),
            score_args=ScoreArguments(damping_factor=damping),
        )  # fmt: skip
        return analyzer.load_pairwise_scores("scores")["all_modules"].numpy()


def trak(model: nn.Module, images: Images, dimensions: int) -> np.ndarray:
    """Scores (queries, examples) by traker; positive: the example widens the margin."""
    from trak import TRAKer
    from trak.projectors import BasicProjector, ProjectionType

    train, queries = _sets(images)
    # With one block it has freed its matrix when it comes to score.
    projector = BasicProjector(
        sum(p.numel() for p in model.parameters()), dimensions, 0, ProjectionType.rademacher,
        torch.device("cpu"), block_size=dimensions // 2,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        traker = TRAKer(
            model, "image_classification", len(train), save_dir=folder, device="cpu",
            projector=projector, proj_dim=dimensions, use_half_precision=False,
            logging_level=40,
        )  # fmt: skip
        traker.load_checkpoint(model.state_dict(), model_id=0)
        (batch,) = DataLoader(train, batch_size=len(train))
        traker.featurize(batch=batch, num_samples=len(train))
        traker.finalize_features()
        traker.start_scoring_checkpoint("queries", model.state_dict(), 0, len(queries))
        (batch,) = DataLoader(queries, batch_size=len(queries))
        traker.score(batch=batch, num_samples=len(queries))
        return np.array(traker.finalize_scores("queries")).T
