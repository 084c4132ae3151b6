"""The negative controls are run by hand; that their lines are still there is looked at each time."""

from __future__ import annotations

import pytest

from tools.controls import CONTROLS, ROOT, Control


@pytest.mark.parametrize("control", CONTROLS, ids=lambda control: control.name)
def test_a_control_s_lines_are_in_its_file_once(control: Control) -> None:
    assert (ROOT / control.file).read_text().count(control.guarded) == 1
    assert all((ROOT / test).exists() for test in control.tests)
