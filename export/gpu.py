"""Which GPU this machine has, and at what clocks it runs: a speed says little without them."""

import subprocess

from pydantic import BaseModel, ConfigDict

QUERY = ("name", "driver_version", "memory.total", "clocks.sm", "clocks.max.sm", "clocks.mem", "clocks.max.mem")
PATIENCE_S = 10.0


class Gpu(BaseModel):
    """Clocks in MHz, at the moment and at most; None where the driver does not tell."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    driver: str
    memory_mib: int | None
    sm_mhz: int | None
    sm_max_mhz: int | None
    memory_mhz: int | None
    memory_max_mhz: int | None

    def __str__(self) -> str:
        clocks = f"SM clock {self.sm_mhz} of {self.sm_max_mhz}, memory clock {self.memory_mhz} of {self.memory_max_mhz}"
        return f"{self.name}, {self.memory_mib} MiB, driver {self.driver}, {clocks} MHz"


def the_gpu() -> Gpu | None:
    """The first NVIDIA GPU; None where there is none, or no `nvidia-smi` that tells of it."""
    command = ["nvidia-smi", f"--query-gpu={','.join(QUERY)}", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    cells = [cell.strip() for cell in answer.partition("\n")[0].split(",")]
    if len(cells) != len(QUERY):
        return None
    name, driver, *numbers = cells
    memory, sm, sm_max, clock, clock_max = (int(number) if number.isdigit() else None for number in numbers)
    return Gpu(
        name=name,
        driver=driver,
        memory_mib=memory,
        sm_mhz=sm,
        sm_max_mhz=sm_max,
        memory_mhz=clock,
        memory_max_mhz=clock_max,
    )
