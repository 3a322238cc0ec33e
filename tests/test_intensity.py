"""Preprocessing steps: a window of Hounsfield units, a step for each modality, steps of outside packages."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent

import numpy as np
import pytest
import torch

from m3ae_core.bundle import fingerprint_of
from m3ae_core.config import ModelConfig, parse_recipe
from m3ae_core.errors import ConfigError
from m3ae_core.intensity import MinMax, PreprocessConfig, Window, ZScore
from m3ae_core.methods.m3ae.method import M3AE
from m3ae_core.modalities import BRATS, CT
from test_plugins import install, run


def configured(modalities: dict, names: tuple[str, ...] = ("T1c", "T2", "CT")) -> ModelConfig:
    model = {"modalities": names, "preprocess": {"scale": "zscore", "modalities": modalities}}
    return parse_recipe({"model": model, "finetune": {"validate_on": "all"}}).model


def test_a_window_clips_and_its_ends_become_0_and_1() -> None:
    window = Window(scale="window", low=-20, high=100)
    hu = np.array([-900, -20, 10, 40, 100, 1500], np.float32)
    np.testing.assert_allclose(window.scaled(hu), [0, 0, 0.25, 0.5, 1, 1])


def test_each_modality_has_its_step_in_channel_order() -> None:
    own = {
        "T2": {"scale": "minmax", "percentiles": (2, 98)},
        "CT": {"scale": "window", "low": -20, "high": 100},
    }
    t1c, t2, ct = configured(own).steps
    assert t1c == ZScore(scale="zscore")
    assert t2 == MinMax(scale="minmax", percentiles=(2, 98))
    assert ct == Window(scale="window", low=-20, high=100)
    assert configured(own, ("CT", "T1c", "T2")).steps == (ct, t1c, t2)


def test_a_ct_without_a_step_of_its_own_shows_the_brains_window() -> None:
    assert PreprocessConfig().step(CT) == Window(scale="window", low=0, high=80)
    assert {PreprocessConfig().step(modality) for modality in BRATS} == {MinMax(scale="minmax")}


def test_steps_survive_json() -> None:
    model = configured({"CT": {"scale": "window", "high": 60}})
    assert ModelConfig.model_validate_json(model.model_dump_json()) == model


def test_fingerprints_tell_steps_apart_and_know_nothing_of_unused_ones() -> None:
    image = torch.zeros(3, 1, 1, 1)
    window, zscore, none = (
        fingerprint_of("", M3AE.of(configured(own), image))
        for own in ({"CT": {"scale": "window"}}, {"CT": {"scale": "zscore"}}, {})
    )
    assert len({window, zscore, none}) == 3
    settings = configured({}).model_dump(exclude_defaults=True)
    assert settings["preprocess"] == {"scale": "zscore"}, "as before there were steps for each modality"


@pytest.mark.parametrize(
    ("own", "words"),
    [
        ({"CT": {"scale": "huh"}}, "scale 'huh' is none of minmax, zscore, window"),
        ({"CT": {"low": 0}}, "is none of minmax"),
        ({"CT": {"scale": "window", "low": 80, "high": 80}}, "from 80 to 80 must rise"),
        ({"CT": {"scale": "window", "percentiles": (1, 99)}}, "percentiles"),
        ({"PET": {"scale": "zscore"}}, "PET, not in modalities"),
    ],
)
def test_steps_that_cannot_be(own: dict, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        configured(own)
    assert words in caught.value.problem


def test_an_outside_package_adds_a_step(tmp_path: Path) -> None:
    install(
        tmp_path,
        "outside",
        """
        from m3ae_core.intensity import Step
        from m3ae_core.plugins import hook_implementation

        class Log(Step):
            offset: float = 1.0

            def scaled(self, values):
                import numpy as np
                return np.log(values + self.offset)

        @hook_implementation
        def m3ae_preprocessing():
            return {"log": Log}
        """,
    )
    found = run(
        tmp_path,
        dedent("""
        import json
        import numpy as np
        from m3ae_core.config import ModelConfig
        from m3ae_core.data.preprocess import normalise
        from m3ae_core.io.volume import Volume
        own = {"T2": {"scale": "log", "offset": 0.0}}
        model = ModelConfig.model_validate({"preprocess": {"modalities": own}})
        again = ModelConfig.model_validate_json(model.model_dump_json())
        image = Volume(np.array([[[0, 1, np.e]]], np.float32), np.eye(4))
        print(json.dumps([again == model, normalise(image, again.steps[3]).ravel().round(4).tolist()]))
        """),
    )
    assert found == [True, [0, 0, 1]]
