"""What the headers of the input say about the patient reaches no result, record, report, log or message."""

from __future__ import annotations

import base64
import gzip
import io
import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from napari.components import ViewerModel
from nibabel.nifti1 import Nifti1Extension

from m3ae_core.bundle import Bundle, save_bundle
from m3ae_core.cli import main
from m3ae_core.data.phantom import AFFINE, phantom
from m3ae_core.errors import M3AEError
from m3ae_core.inference import predictor
from m3ae_core.inference.predictor import Prediction, Predictor, save_prediction
from m3ae_core.io.case import Case, CaseFiles, find_case, read_case, read_case_labels
from m3ae_core.regions import BRATS_2023
from m3ae_core.report.case import write_case_report
from napari_m3ae.autosave import Autosave
from napari_m3ae.chosen import Chosen
from napari_m3ae.jobs import InlineRunner
from napari_m3ae.session import Session
from published import Figures, Trials
from tiny import random_bundle

NAMES = {"FLAIR": "t2f", "T1": "t1n", "T1c": "t1c", "T2": "t2w"}
#: Text fields of both versions of the header, and the extensions that hold text: DICOM, AFNI, comment and others.
FIELDS = ("descrip", "aux_file", "intent_name", "db_name", "data_type")
EXTENSIONS = (2, 4, 6, 8, 10, 12, 14, 30, 32)

#: Ways to spoil a planted file so that it is refused with a message.
SPOILED = {
    "cut": lambda content: content[:-9],
    "magic": lambda content: content[:344] + b"ni1\0" + content[348:],
    "units": lambda content: content[:123] + b"\x01" + content[124:],
    "four axes": lambda content: content[:40] + np.array([4, 2, 2, 2, 2], "<i2").tobytes() + content[50:],
    "no header": lambda content: content[148:],
}


def planted(data: np.ndarray, secret: str, version: type[nib.Nifti1Image]) -> bytes:
    """A NIfTI file that names the patient wherever a header has room for text."""
    image = version(data, AFFINE)
    image.set_sform(AFFINE, 1)
    image.set_qform(AFFINE, 1)
    for name in FIELDS:
        if name in image.header:
            image.header[name] = secret.encode()
    for code in EXTENSIONS:
        image.header.extensions.append(Nifti1Extension(code, f"PatientName: {secret}".encode()))
    content = bytes(image.to_bytes())
    assert content.count(secret.encode()) >= len(EXTENSIONS) + 3
    return content


def zipped(content: bytes, secret: str) -> bytes:
    """Compressed; gzip keeps a file name."""
    stream = io.BytesIO()
    with gzip.GzipFile(filename=f"{secret}.nii", fileobj=stream, mode="wb", compresslevel=1) as file:
        file.write(content)
    assert secret.encode() in stream.getvalue()[:40]
    return stream.getvalue()


def write_case(folder: Path, index: int, secret: str) -> CaseFiles:
    """A case whose files name the patient inside, never in their own names."""
    folder.mkdir(parents=True)
    images, labels = phantom(seed=index)
    version = nib.Nifti2Image if index % 2 else nib.Nifti1Image
    for name, suffix in NAMES.items():
        path = folder / f"scan-{suffix}.nii.gz"
        path.write_bytes(zipped(planted(images[name], secret, version), secret))
        path.with_name(f"scan-{suffix}.json").write_text(json.dumps({"PatientName": secret}))
    (folder / "scan-seg.nii.gz").write_bytes(zipped(planted(labels, secret, version), secret))
    return find_case(folder)


def outputs(files: CaseFiles, home: Path, bundle: Path, model: Predictor) -> Prediction:
    """Make everything that is made of a case: by command line, by library, and as the viewer keeps it."""
    home.mkdir()
    folder = next(iter(files.images.values())).parent
    words = [
        "predict",
        str(folder),
        "--output",
        str(home / "a.nii.gz"),
        "--bundle",
        str(bundle),
        "--device",
        "cpu",
    ]
    assert main(words) == 0
    case = read_case(files).only("FLAIR", "T2")
    prediction = model.predict(case)
    predictor.save_prediction(prediction, home / "b.nii")
    write_case_report(home / "report.html", case, prediction)
    session = Session(ViewerModel(), InlineRunner(), lambda _: model)
    session.show(prediction, Chosen(case, frozenset(map(str, files.images.values())), {}))
    session.shown.layer.data_setitem((np.array([0]), np.array([1]), np.array([2])), 3)
    assert Autosave(session, home / "autosave").save_now()
    assert len(list((home / "autosave").iterdir())) == 3
    return prediction


def told(case: Case) -> tuple[str, ...]:
    """What is said of a case that can be read; something must be."""
    assert case.notes
    return case.notes


def messages(files: CaseFiles, home: Path, secret: str) -> Iterator[str]:
    """What is said of spoiled copies of the files."""
    home.mkdir()
    path = home / "scan-t1n.nii"
    images, _ = phantom()
    content = planted(images["T1"], secret, nib.Nifti1Image)
    for name, spoil in SPOILED.items():
        path.write_bytes(spoil(content))
        with pytest.raises(M3AEError) as caught:
            read_case(CaseFiles(name, {"T1": path}, None))
        yield f"{caught.value} {caught.value.problem} {caught.value.fix}"
    path.write_bytes(content[:252] + bytes(4) + content[256:])  # no geometry
    yield from told(read_case(CaseFiles("lost", {"T1": path}, None)))
    path.write_bytes(planted(images["T1"][1:], secret, nib.Nifti1Image))
    yield from told(read_case(CaseFiles("pair", {"T1": path, "T2": files.images["T2"]}, None)))  # two grids
    with pytest.raises(M3AEError) as caught:  # no labels, but an image
        read_case_labels(CaseFiles("x", {}, path), read_case(files))
    yield str(caught.value)


def holds(content: bytes, secret: str) -> bool:
    """Whether bytes hold the text, in any of the codings in which it may have got there."""
    if content.startswith(b"\x1f\x8b"):
        content += gzip.decompress(content)
    for encoded in re.findall(rb"base64,([A-Za-z0-9+/=]+)", content):
        content += base64.b64decode(encoded)
    return any(secret.encode(coding) in content for coding in ("ascii", "utf-16-le", "utf-16-be"))


def leaks(home: Path, said: str, secret: str) -> list[str]:
    """The files below `home`, and the word "words", that name the patient."""
    found = [path.name for path in home.rglob("*") if path.is_file() and holds(path.read_bytes(), secret)]
    names = [path.name for path in home.rglob("*") if secret in path.name]
    return found + names + ["words"] * (secret in said)


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return random_bundle()


def test_no_planted_name_leaks(
    tmp_path: Path,
    bundle: Bundle,
    trials: Trials,
    figures: Figures,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    model, folder = Predictor(bundle, "cpu"), save_bundle(bundle, tmp_path / "bundle")
    for name in ("m3ae_core", "napari_m3ae", "nibabel"):  # matplotlib tells of every font on the computer
        caplog.set_level(logging.DEBUG, name)
    count, found = trials(ci=2, long=100), {}
    for index in range(count):
        secret = f"Doe{index:03}Qx"
        files = write_case(tmp_path / f"in-{index}", index, secret)
        home = tmp_path / f"out-{index}"
        outputs(files, home, folder, model)
        said = " ".join(messages(files, tmp_path / f"bad-{index}", secret))
        printed = capfd.readouterr()
        assert "labels" in printed.out  # else nothing was captured
        if leaked := leaks(home, said + printed.out + printed.err + caplog.text, secret):
            found[index] = leaked
        caplog.clear()
    figures.add(
        "planted patient text that leaks into any output or log",
        goal="0 of 100",
        tried=count,
        failed=len(found),
        note="each: masks, sidecars, report, autosave, command line, log and messages of one case with a name in every "
        "text field, nine extensions, gzip's file name and a sidecar",
    )
    assert not found


# --- this test can fail ----------------------------------------------------------------------------


def test_a_writer_that_copies_the_header_is_found_out(
    tmp_path: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = "Doe999Qx"
    files = write_case(tmp_path / "in", 0, secret)

    def copying(prediction: Prediction, path: Path) -> None:
        source = nib.load(files.images["T1"])
        nib.save(nib.Nifti1Image(prediction.labels, source.affine, source.header), path)

    prediction = Predictor(bundle, "cpu").predict(read_case(files))
    assert prediction.scheme == BRATS_2023
    (tmp_path / "out").mkdir()
    save_prediction(prediction, tmp_path / "out" / "good.nii.gz")
    assert not leaks(tmp_path / "out", "", secret)
    copying(prediction, tmp_path / "out" / "bad.nii.gz")
    assert leaks(tmp_path / "out", f"the file of {secret}", secret) == ["bad.nii.gz", "words"]
