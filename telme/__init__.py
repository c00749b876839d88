import os

# ONNX Runtime, from 1.32 on, and the model hub's client tell their makers how they are used, unless this is set before
# they are imported.
for _switch in ("ORT_DISABLE_TELEMETRY", "HF_HUB_DISABLE_TELEMETRY"):
    os.environ.setdefault(_switch, "1")
