"""What a result depends on besides code, configuration and data: the versions and the processor that compute it."""

import importlib.metadata
import os
import platform
from pathlib import Path

COMPUTING_PACKAGES = ("tensorflow", "tensorflow-cpu", "keras", "numpy")
# These variables choose TensorFlow's kernels, and with them the last bits of every result.
KERNEL_VARIABLES = ("TF_ENABLE_ONEDNN_OPTS", "ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "CUDA_VISIBLE_DEVICES")


def computing_environment() -> dict[str, str]:
    """Everything about this machine that can change a result's bits, by name."""
    packages = {name: _version(name) for name in COMPUTING_PACKAGES if _version(name)}
    variables = {name: os.environ[name] for name in KERNEL_VARIABLES if name in os.environ}
    return {"python": platform.python_version(), **packages, "cpu": cpu_class(), **variables}


def cpu_class() -> str:
    """Processor vendor, family and model: kernels choose instructions and block sizes by them."""
    try:
        first_processor = Path("/proc/cpuinfo").read_text(encoding="utf-8").split("\n\n")[0]
    except OSError:
        return f"{platform.machine()} {platform.processor()}".strip()
    pairs = (line.partition(":") for line in first_processor.splitlines())
    fields = {name.strip(): value.strip() for name, _, value in pairs}
    named = [f"{name} {fields[key]}" for name, key in [("family", "cpu family"), ("model", "model")] if key in fields]
    return " ".join([fields.get("vendor_id", platform.machine()), *named])


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""
