"""PyTorch with its fused Adam, forward and backward pass compiled by `torch.compile`."""

from functools import partial

from benchmarks.contenders.pytorch_eager import build
from benchmarks.contenders.work import serve

if __name__ == "__main__":
    serve(partial(build, compiled=True))
