"""Topic names: what is built is parsed, and nothing else is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.mqtt import topics
from fleet.mqtt.codec.errors import CodecError
from tests.mqtt import strategies as own


@given(own.device_ids, st.sampled_from(topics.UPLINK_KINDS))
def test_an_uplink_topic_is_parsed_back(device_id: str, kind: str) -> None:
    assert topics.parse_uplink(topics.device(device_id, kind)) == (device_id, kind)


@given(st.text(max_size=90))
def test_any_text_is_an_uplink_topic_or_topic_bad(text: str) -> None:
    found, code = own.outcome(lambda: topics.parse_uplink(text))
    assert code == "topic_bad" or topics.device(*found) == text


@pytest.mark.parametrize(
    "topic",
    [
        "",
        "f1/dev/a",
        "f1/dev/a/desired",
        "f1/dev/a/cmd",
        "f1/dev//reported",
        "f1/dev/A/reported",
        "f1/dev/-a/reported",
        "f1/dev/+/reported",
        "f1/dev/a/reported/",
        "f1/dev/a/reported\n",
        "/f1/dev/a/reported",
        "f2/dev/a/reported",
        "f1/model/a/reported",
        "f1/dev/" + "a" * 33 + "/event",
        "f1/dev/\u00e4/event",
        "f1/dev/\u0661/event",
    ],
)
def test_other_topics_are_refused(topic: str) -> None:
    with pytest.raises(CodecError) as refused:
        topics.parse_uplink(topic)
    assert refused.value.code == "topic_bad"


@pytest.mark.parametrize(
    ("device_id", "kind"), [("+", "desired"), ("#", "cmd"), ("a/b", "cmd"), ("a", "other")]
)
def test_no_topic_is_built_from_a_wildcard_or_an_unknown_kind(device_id: str, kind: str) -> None:
    with pytest.raises(CodecError):
        topics.device(device_id, kind)


@pytest.mark.parametrize("mid", ["", "+", "0" * 15, "0" * 17, "A" * 16])
def test_no_model_topic_is_built_from_anything_but_a_mid(mid: str) -> None:
    with pytest.raises(CodecError):
        topics.chunk(mid, 0)


def test_topics_are_those_of_the_contract() -> None:
    mid = "0123456789abcdef"
    assert topics.TRUST == "f1/trust"
    assert topics.trust_version(12) == "f1/trust/12"
    assert topics.manifest(mid) == f"f1/model/{mid}/manifest"
    assert topics.leaves(mid) == f"f1/model/{mid}/leaves"
    assert [topics.chunk(mid, index) for index in (0, 15, 16, 1022)] == [
        f"f1/model/{mid}/0/0",
        f"f1/model/{mid}/0/15",
        f"f1/model/{mid}/1/16",
        f"f1/model/{mid}/63/1022",
    ]
    assert topics.segment_filter(mid, 3) == f"f1/model/{mid}/3/+"
    assert topics.model_filter(mid) == f"f1/model/{mid}/#"
    assert (topics.desired("a"), topics.cmd("a")) == ("f1/dev/a/desired", "f1/dev/a/cmd")
    assert topics.uplink_filter("event") == "f1/dev/+/event"
    assert topics.uplink_filter("event", share="in-5") == "$share/in-5/f1/dev/+/event"
    assert (topics.ONLINE.hex(), topics.OFFLINE.hex()) == ("a10001", "a10000")
