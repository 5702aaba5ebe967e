"""Every count of microseconds is an instant that is told, ordered and reckoned with."""

from __future__ import annotations

import copy
import pickle
from datetime import datetime, timedelta, timezone

import pytest

from pipeline.instants import Beyond, in_utc, microseconds, of_microseconds, of_milliseconds, shifted, written

TIMES = {
    -(2**63): "-290308-12-21T19:59:05.224192Z",
    -100_000_000_000_000_000: "-1199-02-15T14:13:20Z",
    -62_135_596_800_000_001: "0000-12-31T23:59:59.999999Z",
    -62_135_596_800_000_000: "0001-01-01T00:00:00Z",
    -1: "1969-12-31T23:59:59.999999Z",
    0: "1970-01-01T00:00:00Z",
    1_767_225_600_000_000: "2026-01-01T00:00:00Z",
    253_402_300_799_999_999: "9999-12-31T23:59:59.999999Z",
    253_402_300_800_000_000: "+10000-01-01T00:00:00Z",
    1_767_225_600_000_000_000: "+57971-02-25T00:00:00Z",
    2**63 - 1: "+294247-01-10T04:00:54.775807Z",
}
"""By microseconds since 1970, as Spark writes them."""


@pytest.mark.parametrize(("since_epoch", "text"), TIMES.items())
def test_a_count_of_microseconds_is_an_instant(since_epoch: int, text: str) -> None:
    for zone in (timezone.utc, None):
        time = of_microseconds(since_epoch, zone)
        assert time.tzinfo is zone
        for same in (time, copy.deepcopy(time), pickle.loads(pickle.dumps(time)), in_utc(time)):
            assert microseconds(same) == since_epoch
            assert written(same) == text
            assert same.isoformat().removesuffix("+00:00") + "Z" == text
            assert isinstance(same, Beyond) is (not text[:4].isdigit() or text.startswith("0000"))
    assert (
        written(of_microseconds(since_epoch), to_the_second=True) == text.partition(".")[0].rstrip("Z") + "Z"
    )


def test_instants_are_in_order_and_reckoned_with() -> None:
    times = [of_microseconds(since_epoch) for since_epoch in TIMES]
    assert sorted([*times[5:], *times[:5]]) == times
    assert max(times[0], times[6]) is times[6]
    assert times[-1] - times[6] > timedelta(days=365 * 7000)
    assert times[-1] - timedelta(hours=1) == datetime.max.replace(tzinfo=timezone.utc) - timedelta(hours=1)
    assert f"{times[-2]:%Y-%m-%d}" == "+57971-02-25T00:00:00Z"


@pytest.mark.parametrize("since_epoch", TIMES)
def test_a_sum_beyond_the_ends_is_an_instant_too(since_epoch: int) -> None:
    for by in (timedelta(hours=24), -timedelta(hours=24), timedelta(microseconds=1)):
        assert microseconds(shifted(of_microseconds(since_epoch), by)) == since_epoch + by // timedelta(
            microseconds=1
        )


@pytest.mark.parametrize("since_epoch", [-(2**63), 2**63 - 1, 0, 1_767_225_600_001])
def test_what_kafka_can_hold_is_an_instant(since_epoch: int) -> None:
    assert microseconds(of_milliseconds(since_epoch)) == since_epoch * 1000
