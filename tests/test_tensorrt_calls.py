"""Every call into TensorRT and cuda-core against the installed packages' own signatures, in both flavours.

TensorRT proper cannot be installed without a GPU's gigabytes; its Python bindings can. They load here against empty
shared libraries, which is enough to read the signatures off them. mypy then checks our code with what was read.
"""

import ast
import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from packages import required

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
SOURCES = (
    "telme/runtime/tensorrt.py",
    "telme/runtime/tensorrt_library.py",
    "telme/runtime/gpu.py",
    "export/tensorrt.py",
    "export/build_progress.py",
)
# What only TensorRT for RTX has; our code asks for it in branches for that flavour.
ONLY_RTX = {
    '"IRuntimeConfig" has no attribute "cuda_graph_strategy"',
    '"IBuilderConfig" has no attribute "num_compute_capabilities"',
    '"IBuilderConfig" has no attribute "set_compute_capability"',
    'Name "trt.ComputeCapability" is not defined',
}
ONLY_RTX_NAMES = {
    "ComputeCapability",
    "ComputeCapability.__members__",
    "CudaGraphStrategy",
    "CudaGraphStrategy.WHOLE_GRAPH_CAPTURE",
}

LIBRARIES = {
    "nvinfer": (
        "createInferBuilder_INTERNAL",
        "createInferRefitter_INTERNAL",
        "createInferRuntime_INTERNAL",
        "getBuilderPluginRegistry",
        "getPluginRegistry",
    ),
    "nvonnxparser": (
        "createNvOnnxParserRefitter_INTERNAL",
        "createNvOnnxParser_INTERNAL",
        "getNvOnnxParserVersion",
    ),
    "nvinfer_plugin": ("initLibNvInferPlugins",),
}
# Where pybind11's docstrings say less than the bindings do: they convert tuples, and lend memory as buffers.
CORRECTIONS = {
    "min: Dims, opt: Dims, max: Dims": "min: tuple[int, ...], opt: tuple[int, ...], max: tuple[int, ...]",
    "class IHostMemory:\n": "class IHostMemory:\n    def __buffer__(self, flags: int, /) -> memoryview: ...\n",
    "channel_axis: typing.SupportsInt) -> IScaleLayer": "channel_axis: typing.SupportsInt = ...) -> IScaleLayer",
    "def get_error(self, *args, **kwargs):": "def get_error(self, index: int) -> ParserError:",
}
SETTINGS = """
[mypy]
strict = True
plugins = pydantic.mypy
[mypy-cuda.*,tensorrt_rtx.*,onnx.*]
ignore_errors = True
[mypy-cuda.bindings.*,torch.*,onnxruntime.*]
ignore_missing_imports = True
"""


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """One in which TensorRT's bindings can be imported, though nothing can be run with them."""
    required("tensorrt_bindings", "tensorrt-cu13-bindings")
    folder = tmp_path_factory.mktemp("libraries")
    for library, symbols in LIBRARIES.items():
        source = folder / f"{library}.c"
        source.write_text("".join(f"void *{symbol}(void) {{ return 0; }}\n" for symbol in symbols))
        name = f"lib{library}.so.11"
        subprocess.run(["gcc", "-shared", f"-Wl,-soname,{name}", "-o", folder / name, source], check=True)
    return {**os.environ, "LD_LIBRARY_PATH": str(folder)}


@pytest.mark.parametrize(
    ("module", "expected"),
    [("tensorrt_rtx_bindings.tensorrt_rtx", set()), ("tensorrt_bindings.tensorrt", ONLY_RTX)],
    ids=["rtx", "full"],
)
def test_calls_have_the_types_that_the_library_takes(
    module: str, expected: set[str], environment: dict[str, str], tmp_path: Path
) -> None:
    required("tensorrt_rtx", "tensorrt-rtx")
    required("cuda.core", "cuda-core")
    stubgen = [Path(sys.executable).with_name("stubgen"), "-m", module, "--inspect-mode", "-o", tmp_path / "read"]
    subprocess.run(stubgen, env=environment, check=True, capture_output=True, timeout=200)
    stub = (tmp_path / "read" / module.replace(".", "/")).with_suffix(".pyi").read_text()
    for said, meant in CORRECTIONS.items():
        assert said in stub, said
        stub = stub.replace(said, meant)
    stubs = tmp_path / "stubs"
    (stubs / "tensorrt_rtx").mkdir(parents=True)
    (stubs / "tensorrt_rtx" / "__init__.pyi").write_text(stub)
    spec = importlib.util.find_spec("cuda.core")
    assert spec is not None
    assert spec.origin is not None
    core = Path(spec.origin).parent  # which finds its own stubs at run time only
    shutil.copytree(core / "cu13", stubs / "cuda" / "core", ignore=shutil.ignore_patterns("*.so", "__init__.pxd"))
    shutil.copy(core / "__init__.py", stubs / "cuda" / "core")
    memory = stubs / "cuda" / "core" / "_memory" / "__init__.py"
    reexported = [line for line in memory.read_text().splitlines() if line.endswith("import *")]
    memory.with_suffix(".pyi").write_text("\n".join(reexported))  # mypy cannot follow how the original makes __all__
    memory.unlink()
    buffers = memory.with_name("_buffer.pyi")  # which calls a DLPack capsule an object
    lent = buffers.read_text().replace("import TypedDict", "import Any, TypedDict")
    buffers.write_text(lent.replace("copy: bool | None=None) -> object", "copy: bool | None=None) -> Any"))
    (tmp_path / "mypy.ini").write_text(SETTINGS)
    checked = subprocess.run(
        [sys.executable, "-m", "mypy", "--config-file", tmp_path / "mypy.ini", "--cache-dir", tmp_path, *SOURCES],
        cwd=ROOT,
        env={**os.environ, "MYPYPATH": str(stubs)},
        capture_output=True,
        text=True,
        timeout=280,
    )
    lines = [line for line in checked.stdout.splitlines() if ": error: " in line]
    errors = {line.partition(": error: ")[2].rpartition("  [")[0] for line in lines}
    assert errors == expected, checked.stdout + checked.stderr


@pytest.mark.parametrize(
    ("module", "absent"), [("tensorrt_rtx", set()), ("tensorrt_bindings", ONLY_RTX_NAMES)], ids=["rtx", "full"]
)
def test_names_are_the_library_s(module: str, absent: set[str], environment: dict[str, str]) -> None:
    required(module, module)
    names = {name for source in SOURCES for name in used_names(ast.parse((ROOT / source).read_text()))}
    assert len(names) > 15
    program = """
import functools, importlib, sys
library = importlib.import_module(sys.argv[1])
for name in sys.argv[2:]:
    try:
        functools.reduce(getattr, name.split("."), library)
    except AttributeError:
        print(name)
"""
    found = subprocess.run(
        [sys.executable, "-c", program, module, *names], env=environment, capture_output=True, text=True, check=True
    )
    assert set(found.stdout.split()) == absent


def used_names(tree: ast.Module) -> Iterator[str]:
    """What the source takes from a module that it calls `library`, as in `BuilderFlag.STRIP_PLAN`."""
    for node in ast.walk(tree):
        path: list[str] = []
        while isinstance(node, ast.Attribute):
            path.insert(0, node.attr)
            node = node.value
        if isinstance(node, ast.Name) and node.id == "self" and path[:1] == ["_library"]:
            node, path = ast.Name("library"), path[1:]
        if path and isinstance(node, ast.Name) and node.id == "library":
            yield ".".join(path)
