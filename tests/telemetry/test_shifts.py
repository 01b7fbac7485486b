"""Which faults of a sensor one device's window shows, by real answers to recorded wear."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from fleet.telemetry import shifts
from fleet.telemetry.samples import sketch_body
from fleet.telemetry.shifts import Moments, Reference, Seen
from tests.firmware.stages import Stages
from tests.telemetry.worn import FAULTS, Wearer

EVERY = 3
"""Every third recorded window: as many as the design's table had."""
N = 300


def windows(devices: Sequence[int], fault: str = "none", *, each: int = 5) -> list[tuple[str, Seen]]:
    made = []
    for device in devices:
        wearer = Wearer(device, every=EVERY)
        made += [(f"dev-{device}", wearer.seen(N, fault)) for _ in range(each)]
    return made


@pytest.fixture(scope="module")
def reference() -> Reference:
    """Of forty clean devices."""
    found = shifts.reference_of(windows(range(40)))
    assert found is not None
    return found


def alarms(reference: Reference, fault: str, devices: range) -> int:
    """Devices of which at least three of five windows are flagged."""
    n = 0
    for device in devices:
        judged = [shifts.judge(seen, reference) for _, seen in windows([device], fault)]
        n += sum(one.worst > 1 for one in judged) >= 3
    return n


@pytest.mark.parametrize("fault", [fault for fault in FAULTS if fault != "none"])
def test_each_fault_of_the_design_is_seen_on_every_device(reference: Reference, fault: str) -> None:
    assert alarms(reference, fault, range(1000, 1020)) == 20


def test_clean_devices_that_the_reference_never_saw_do_not_alarm(reference: Reference) -> None:
    assert alarms(reference, "none", range(1000, 1100)) == 0


def test_an_offset_flags_every_statistic_while_confidence_rises(reference: Reference) -> None:
    worn = [Wearer(device, every=EVERY) for device in range(1000, 1020)]
    faulty = [one.seen(N, "+ 1.5") for one in worn]
    sure = [np.mean([one.confidence or 0.0 for one in seen]) for seen in ([w.seen(N) for w in worn], faulty)]
    assert sure[1] > sure[0] + 0.02
    assert sure[1] > (reference.confidence or 1.0) + 0.02
    accuracy = [np.mean([one.accuracy(N, fault) for one in worn]) for fault in ("none", "+ 1.5")]
    assert accuracy[1] < accuracy[0] - 0.3
    for found in (shifts.judge(one, reference) for one in faulty):
        assert set(found.ratios) == {"input", "class", "distance"}
        assert min(found.ratios.values()) > 1
        assert found.moment == shifts.MEAN


def test_a_stuck_axis_is_named(reference: Reference) -> None:
    found = shifts.judge(Wearer(1000, every=EVERY).seen(N, "channel 0 = 0"), reference)
    assert (found.channel, found.moment) == (0, shifts.VARIANCE)
    assert found.ratios["input"] > 1 > found.ratios["class"], "which the mix of classes does not show"


def test_elements_at_the_ends_or_off_the_contract_are_seen(reference: Reference) -> None:
    clean = Wearer(1000, every=EVERY).seen(N)
    for name, moment in (("saturated", shifts.SATURATED), ("out", shifts.OUT)):
        shares = np.zeros(6)
        shares[4] = 0.02
        assert clean.moments is not None
        found = shifts.judge(Seen(N, replace(clean.moments, **{name: shares})), reference)
        assert (found.channel, found.moment) == (4, moment)
        assert found.worst == pytest.approx(2)


def test_a_tenth_of_faulty_devices_among_its_windows_does_not_move_a_reference() -> None:
    mixed = windows(range(36)) + windows(range(36, 40), "+ 1.5")
    found = shifts.reference_of(mixed)
    assert found is not None
    assert alarms(found, "+ 1.5", range(1000, 1020)) == 20
    assert alarms(found, "none", range(1000, 1040)) == 0


def test_what_python_adds_up_is_what_the_device_sends() -> None:
    stages = Stages()
    ours, theirs = Wearer(3, every=EVERY), Wearer(3, every=EVERY)
    sketch = theirs.sketch(stages, N)
    seen, sent = ours.seen(N), shifts.seen_of(sketch.n, sketch_body(sketch))
    assert (sent.n, sketch.inputs is not None and sketch.inputs.elements) == (N, N * 100)
    assert seen.moments is not None
    for name, of in vars(seen.moments).items():
        np.testing.assert_allclose(getattr(sent.moments, name), of, rtol=0.01, atol=0.01, err_msg=name)
    np.testing.assert_array_equal(sent.classes, seen.classes)
    np.testing.assert_array_equal(sent.distances, seen.distances)
    assert sent.confidence == pytest.approx(seen.confidence)


def test_too_few_windows_devices_or_inferences_make_no_reference() -> None:
    seen = Wearer(1, every=EVERY).seen(N)
    assert shifts.reference_of([(f"d{n}", seen) for n in range(39)]) is None
    assert shifts.reference_of([(f"d{n % 7}", seen) for n in range(80)]) is None
    few = Wearer(1, every=EVERY).seen(199)
    assert shifts.reference_of([(f"d{n}", few) for n in range(40)]) is None
    assert shifts.reference_of([(f"d{n}", seen) for n in range(40)]) is not None


def test_a_short_window_is_not_judged(reference: Reference) -> None:
    found = shifts.judge(Wearer(1, every=EVERY).seen(199, "+ 1.5"), reference)
    assert (found.ratios, found.worst, found.n) == ({}, 0.0, 199)
    assert found.confidence is not None


def test_what_a_sketch_leaves_out_is_not_judged(reference: Reference) -> None:
    """A device leaves out classes, then moments, when a message would be too long."""
    whole = Wearer(1000, every=EVERY).seen(N, "+ 1.5")
    lean = Seen(whole.n, distances=whole.distances, confidence=whole.confidence)
    assert set(shifts.judge(lean, reference).ratios) == {"distance"}
    assert shifts.seen_of(N, {}) == Seen(N)
    assert whole.moments is not None
    three = Moments(*(values[:3] for values in vars(whole.moments).values()))
    assert shifts.judge(Seen(whole.n, three), reference).ratios == {}, "an input of other channels"


@pytest.mark.parametrize(
    ("df", "probability", "value"),
    [
        (7, 0.9999, 7.063),
        (9, 0.9995, 4.781),
        (9, 0.99999, 8.022),
        (29, 0.9995, 3.659),
        (29, 0.99999, 5.115),
        (120, 0.999, 3.160),
    ],
)
def test_quantiles_of_t_are_those_of_the_tables(df: int, probability: float, value: float) -> None:
    assert shifts.t_quantile(probability, df) == pytest.approx(value, rel=0.02 if df > 8 else 0.08)
