"""What a result depends on besides code, configuration and data: the versions and the processor that compute it."""

import importlib.metadata
import json
import os
import platform
from pathlib import Path

from pipeline.common.files import replacing

COMPUTING_PACKAGES = ("tensorflow", "tensorflow-cpu", "keras", "numpy")
# Variables that begin so choose TensorFlow's kernels, and with them the last bits of every result. Not all of TF_: that is
# Terraform's prefix, too.
KERNEL_VARIABLES = (
    *("TF_ENABLE_", "TF_DISABLE_", "TF_SET_ONEDNN_", "TF_XLA_", "TF_CUDNN_", "TF_CUBLAS_", "TF_USE_", "TF_DETERMINISTIC_"),
    *("ONEDNN_", "DNNL_", "XLA_", "CUDA_VISIBLE_DEVICES", "CUDNN_", "CUBLAS_", "NVIDIA_TF32_OVERRIDE"),
)
VECTOR_INSTRUCTIONS = ("sse4", "fma", "avx", "amx")


def computing_environment() -> dict[str, str]:
    """Everything about this machine that can change a result's bits, by name."""
    packages = {name: _version(name) for name in COMPUTING_PACKAGES if _version(name)}
    return {"python": platform.python_version(), **packages, **_processor(), **_gpus(), **kernel_variables()}


def kernel_variables() -> dict[str, str]:
    """What is set of the variables that choose kernels."""
    return {name: value for name, value in sorted(os.environ.items()) if name.startswith(KERNEL_VARIABLES)}


def result_environment() -> dict[str, str]:
    """What is noted beside a result: the computing environment, and that each trial has one thread."""
    return {**computing_environment(), "threads_per_trial": "1"}


def as_text(environment: dict[str, str]) -> str:
    """Write an environment as a stage's output has it."""
    return json.dumps(environment, indent=2, sort_keys=True) + "\n"


def write_environment(path: Path) -> None:
    """Note what computed a result: no other stage reads it, so another processor alone reruns nothing."""
    with replacing(path) as temporary:
        temporary.write_text(as_text(result_environment()), encoding="utf-8")


def _processor() -> dict[str, str]:
    """Vendor, family and model, by which kernels choose block sizes, and the vector instructions that they may use."""
    try:
        first_processor = Path("/proc/cpuinfo").read_text(encoding="utf-8").split("\n\n")[0]
    except OSError:
        return {"cpu": f"{platform.machine()} {platform.processor()}".strip()}
    pairs = (line.partition(":") for line in first_processor.splitlines())
    fields = {name.strip(): value.strip() for name, _, value in pairs}
    named = [f"{name} {fields[key]}" for name, key in [("family", "cpu family"), ("model", "model")] if key in fields]
    instructions = sorted(flag for flag in fields.get("flags", "").split() if flag.startswith(VECTOR_INSTRUCTIONS))
    return {"cpu": " ".join([fields.get("vendor_id", platform.machine()), *named]), "instructions": " ".join(instructions)}


def _gpus(driver: Path = Path("/proc/driver/nvidia")) -> dict[str, str]:
    """Model of each GPU and the driver that compiles for it; nothing where there is none."""
    models = [
        line.partition(":")[2].strip()
        for information in sorted(driver.glob("gpus/*/information"))
        for line in information.read_text(encoding="utf-8").splitlines()
        if line.startswith("Model:")
    ]
    return {"gpu": ", ".join(models), "gpu_driver": (driver / "version").read_text(encoding="utf-8").split("\n")[0]} if models else {}


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""
