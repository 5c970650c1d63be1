"""The data sets that `data.dataset` of params.yaml can name."""

from pipeline.images.cifar10 import CIFAR10
from pipeline.images.dataset import Dataset

DATASETS: dict[str, Dataset] = {dataset.name: dataset for dataset in (CIFAR10,)}
