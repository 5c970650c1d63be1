"""PyTorch with its fused Adam, uncompiled."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from benchmarks.contenders.work import ADAM, BATCH_NORM, Contender, Work, serve


def build(work: Work, *, compiled: bool = False) -> Contender:
    """Train in a plain loop, with all images in memory as bytes."""
    torch.set_num_threads(work.threads)
    layers: list[nn.Module] = []
    momentum, epsilon = BATCH_NORM
    for kernel in work.kernels:
        linear = nn.Linear(*kernel.shape)
        with torch.no_grad():
            linear.weight.copy_(torch.from_numpy(kernel.T))
            linear.bias.zero_()
        layers += [linear, nn.ReLU()]
        if work.normalization == "batch":
            layers.append(nn.BatchNorm1d(kernel.shape[1], epsilon, 1 - momentum))
    network = nn.Sequential(*layers[: layers.index(linear) + 1])  # nothing after the last Dense layer
    optimizer = torch.optim.Adam(network.parameters(), *ADAM, fused=True)
    images = torch.from_numpy(np.array(work.images)).reshape(len(work.labels), -1)
    labels = torch.from_numpy(work.labels.astype(np.int64))

    def forward(pixels: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits = network(pixels.float() / 255)
        return nn.functional.cross_entropy(logits, targets), (logits.argmax(dim=1) == targets).sum()

    forward = torch.compile(forward) if compiled else forward

    def train(order: NDArray[np.int64]) -> float:
        loss_sum, correct = torch.zeros(()), torch.zeros((), dtype=torch.int64)
        for batch in torch.from_numpy(order).split(work.batch_size):
            optimizer.zero_grad(set_to_none=True)
            loss, hits = forward(images[batch], labels[batch])
            loss.backward()
            optimizer.step()
            loss_sum += loss.detach() * len(batch)
            correct += hits
        return float(loss_sum) / len(order)

    return (lambda order: order), {"train": train}


if __name__ == "__main__":
    serve(build)
