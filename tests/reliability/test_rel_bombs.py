"""A small file that claims to be huge is refused at once, before room is made for it."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from published import Figures

GOAL = "< 0.5 s, < 200 MB"
SECONDS, MEGABYTES = 0.5, 200

#: Time and the most memory that a fresh interpreter needs to read a file, or to refuse it.
MEASURE = """
import json, re, sys, time
from pathlib import Path
from m3ae_core.io.volume import read_labels, read_volume
from m3ae_core.errors import InputError
read, code = {"volume": read_volume, "labels": read_labels}[sys.argv[1]], "read"
started = time.perf_counter()
try:
    read(sys.argv[2])
except InputError as error:
    code = error.code
seconds = time.perf_counter() - started
# getrusage would also count what the parent process held when it started this one.
peak = int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
print(json.dumps([code, seconds, peak / 1024]))
"""


def small() -> nib.Nifti1Image:
    image = nib.Nifti1Image((np.arange(60) % 7).reshape(3, 4, 5).astype("int16"), np.diag([-1.0, -1, 1, 1]))
    image.set_qform(image.affine, 1)
    return image


def with_sides(*dim: int, dtype: str = "int16") -> bytes:
    """A valid small file whose header declares another shape."""
    image = small()
    image.set_data_dtype(dtype)
    content = bytearray(image.to_bytes())
    content[40:56] = np.array([len(dim), *dim, *[1] * (7 - len(dim))], "<i2").tobytes()
    return bytes(content)


def zeros_after(head: bytes) -> bytes:
    """Compressed, in many members: `head`, then 4 GB of zeros."""
    return (gzip.compress(head) if head else b"") + gzip.compress(bytes(2**24)) * 256


FILES: dict[str, tuple[Callable[[], bytes], str]] = {
    "4 GB of zeros behind a small image": (lambda: zeros_after(small().to_bytes()), "oversized"),
    "4 GB of zeros without a header": (lambda: zeros_after(b""), "not-nifti"),
    "compressed twice": (lambda: gzip.compress(zeros_after(small().to_bytes())), "not-nifti"),
    "2000 x 2000 x 2000 declared": (lambda: gzip.compress(with_sides(2000, 2000, 2000)), "too-large"),
    "32767 x 32767 x 32767 declared": (lambda: with_sides(32767, 32767, 32767), "too-large"),
    "seven axes of 32767 declared": (lambda: with_sides(*[32767] * 7), "not-3d"),
    "1 GB declared, not there": (lambda: with_sides(512, 512, 512, dtype="float64"), "truncated"),
    "1 GB declared, compressed, not there": (
        lambda: gzip.compress(with_sides(512, 512, 512, dtype="float64")),
        "truncated",
    ),
}


@pytest.mark.skipif(sys.platform != "linux", reason="the peak of memory is asked of Linux")
@pytest.mark.parametrize("name", FILES)
def test_bomb(name: str, tmp_path: Path, figures: Figures) -> None:
    content, expected = FILES[name]
    path = tmp_path / "bomb.nii.gz"
    path.write_bytes(content())
    kind = "labels" if "1 GB" in name else "volume"
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, kind, str(path)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    code, seconds, peak = json.loads(done.stdout)
    kept = code == expected and seconds < SECONDS and peak < MEGABYTES
    figures.add(
        "gzip bomb or absurd header",
        goal=GOAL,
        tried=1,
        failed=int(not kept),
        note=f"{name}: {seconds:.2f} s, {peak:.0f} MB",
    )
    assert kept, (code, seconds, peak)
