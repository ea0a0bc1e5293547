"""The webhook, against a real web server: what it is sent, what it answers, when it hangs."""

import datetime as dt
import email.utils
import json
import logging
import math
import re
import time

import pytest

from edge.config import build
from edge.delivery import Delivery
from edge.errors import SinkError
from edge.sinks.webhook import FIELDS, Webhook, WebhookConfig, fill, read_template
from tests.conftest import ROOT
from tests.receivers import event, free_port, http_receiver, ids, wait_until


@pytest.fixture
def receiver():
    with http_receiver() as server:
        yield server


@pytest.fixture
def webhook(receiver):
    made = []

    def make(**settings):
        made.append(Webhook(WebhookConfig(**{"url": receiver.url, **settings})))
        return made[-1]

    yield make
    for sink in made:
        sink.close()


def bodies(server):
    return [json.loads(body) for _, body in server.requests]


def test_events_arrive_as_json_and_nothing_else_does(receiver, webhook):
    sink = webhook(headers={"Authorization": "Bearer abc"})
    for record in ({"type": "window"}, event(0, label="犬"), event(0, phase="end", label="犬")):
        sink.write(record)
    assert bodies(receiver) == [event(0, label="犬"), event(0, phase="end", label="犬")]
    headers, _ = receiver.requests[0]
    assert headers["Content-Type"] == "application/json"
    assert headers["Authorization"] == "Bearer abc"
    assert headers["Idempotency-Key"] == "e00000-begin"
    assert headers["User-Agent"].startswith("edge-listen/")
    assert "X-Edge-Listen-Signature" not in headers


def test_only_the_phases_that_are_asked_for(receiver, webhook):
    sink = webhook(phases=("end",))
    sink.write(event(0))
    sink.write(event(0, phase="end"))
    assert [b["phase"] for b in bodies(receiver)] == ["end"]


def test_the_clip_of_an_event_is_sent_when_it_is_there(receiver, webhook):
    sink = webhook(phases=("clip",), template='{"text": "$label $path $peak"}', cooldown=60.0)
    for number, state in ((0, "withheld"), (1, "written"), (2, "written")):  # the last one within the cool-down
        begun = event(number)
        news = {"id": begun["id"], "label": "Dog", "onset_time": begun["onset_time"], "state": state}
        sink.write({"type": "clip", "source": "mic", "path": f"/{number}.flac", "reason": None, **news})
    assert bodies(receiver) == [{"text": "Dog /1.flac "}]
    assert receiver.requests[0][0]["Idempotency-Key"] == "e00001-clip"


def test_a_template_is_filled_and_its_types_stay(receiver, webhook):
    template = '{"text": "$label at $$5: ${peak}", "list": [1, null, "$duration$clip", {"c": "$classes"}]}'
    sink = webhook(template=template)
    sink.write(event(0, label='a "quoted" one'))
    sink.write(event(0, phase="end"))
    first, second = bodies(receiver)
    assert first == {"text": 'a "quoted" one at $5: 0.91', "list": [1, None, "", {"c": 'a "quoted" one'}]}
    assert second["list"][2] == "0.5"


def test_a_template_from_a_file(tmp_path):
    (tmp_path / "t.json").write_text('{\n  "message": "$label"\n}')
    assert fill(read_template(str(tmp_path / "t.json")), event(0)) == {"message": "Dog"}


def test_a_template_may_name_every_field_of_an_event():
    assert set(event(0)) - {"type"} | {"clip", "path"} == FIELDS


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ('{"a": "$lable"}', r"\$lable in '\$lable'.*use .*\$label"),
        ('{"a": "5 $"}', r"a lone \$"),
        ('{"a": ', "Expecting value"),
        (r'{"a": "\ud800"}', "surrogates not allowed"),
        ("/no/such/file", "No such file"),
    ],
)
def test_a_template_that_cannot_be_filled_is_refused_at_the_start(template, said):
    with pytest.raises(SinkError, match=said):
        Webhook(WebhookConfig(url="http://localhost/", template=template))


def test_the_signature_is_verified_by_the_example_of_the_documentation(receiver, webhook, monkeypatch):
    monkeypatch.setenv("HOOK_KEY", "s3cret")
    sink = webhook(secret_env="HOOK_KEY")
    sink.write(event(0, label="犬"))
    (headers, body) = receiver.requests[0]
    examples = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "sinks.md").read_text(), re.DOTALL)
    (example,) = [code for code in examples if "hmac" in code]
    names: dict = {}
    exec(example, names)
    verify = names["is_genuine"]
    assert verify(b"s3cret", headers, body)
    assert not verify(b"another", headers, body)
    assert not verify(b"s3cret", headers, body + b" ")
    late = headers | {"X-Edge-Listen-Timestamp": str(int(time.time()) - 3600)}
    assert not verify(b"s3cret", late, body)


def test_secrets_come_from_the_environment_or_a_file(tmp_path, monkeypatch):
    file = tmp_path / "key"
    file.write_text("s3cret\n")
    assert Webhook(WebhookConfig(url="http://localhost/", secret_file=str(file)))._secret == "s3cret"
    monkeypatch.delenv("HOOK_KEY", raising=False)
    for settings in (
        {"secret_env": "HOOK_KEY"},
        {"secret_file": str(tmp_path / "missing")},
        {"secret_env": "HOOK_KEY", "secret_file": str(file)},
    ):
        with pytest.raises(SinkError, match="the webhook's secret"):
            Webhook(WebhookConfig(url="http://localhost/", **settings))


@pytest.mark.parametrize("code", [400, 401, 404, 410, 422, 301])
def test_answers_after_which_it_is_not_tried_again(receiver, webhook, code):
    receiver.answers = [(code, {})]
    with pytest.raises(SinkError, match=f"answers {code}") as caught:
        webhook().write(event(0))
    assert not caught.value.retry


@pytest.mark.parametrize("code", [408, 425, 429, 500, 502, 503])
def test_answers_after_which_it_is_tried_again(receiver, webhook, code):
    receiver.answers = [(code, {})]
    with pytest.raises(SinkError, match=f"answers {code}") as caught:
        webhook().write(event(0))
    assert caught.value.retry
    assert caught.value.after == 0


def in_a_minute():
    return email.utils.format_datetime(dt.datetime.now(dt.timezone.utc) + dt.timedelta(minutes=1))


@pytest.mark.parametrize(
    ("value", "least", "most"),
    [
        ("7", 7, 7),
        ("999999", 300, 300),
        ("-5", 0, 0),
        ("soon", 0, 0),
        ("", 0, 0),
        pytest.param(in_a_minute, 40, 61, id="date"),
    ],
)
def test_retry_after_is_heard_within_bounds(receiver, webhook, value, least, most):
    receiver.answers = [(429, {"Retry-After": value() if callable(value) else value})]
    with pytest.raises(SinkError) as caught:
        webhook().write(event(0))
    assert least <= caught.value.after <= most


def test_messages_do_not_show_the_path_of_the_url(webhook):
    """It is often a secret."""
    with pytest.raises(SinkError) as caught:
        webhook(url=f"http://user:pw@127.0.0.1:{free_port()}/token").write(event(0))
    assert caught.value.retry
    assert "token" not in str(caught.value)
    assert "pw" not in str(caught.value)


def test_a_receiver_that_hangs_is_a_failure_after_the_timeout(receiver, webhook):
    receiver.hold.clear()
    sink = webhook(timeout=0.2)
    start = time.monotonic()
    with pytest.raises(SinkError, match="timed out") as caught:
        sink.write(event(0))
    assert caught.value.retry
    assert time.monotonic() - start < 5  # the default is 10, and an emulated processor is slow


def test_the_cool_down_holds_back_events_of_the_same_label(receiver, webhook):
    sink = webhook(cooldown=10.0, cooldowns={"Siren": 0.0})
    for i in (0, 4, 9.9, 10, 15, 20.1):
        sink.write(event(int(i), at=1e9 + i % 1))
        sink.write(event(int(i), at=1e9 + i % 1, phase="end"))
    for i in (0, 1):
        sink.write(event(100 + i, label="Siren"))
    sink.write(event(200, label="Cat", at=1e9 - 200))
    assert [(b["id"], b["phase"][0]) for b in bodies(receiver)] == [
        ("e00000", "b"), ("e00000", "e"), ("e00010", "b"), ("e00010", "e"), ("e00020", "b"), ("e00020", "e"),
        ("e00100", "b"), ("e00101", "b"), ("e00200", "b"),
    ]  # fmt: skip


def test_without_a_cool_down_an_earlier_beginning_is_sent_as_well(receiver, webhook):
    """The second of two sources has heard it sooner."""
    sink = webhook()
    for i in (5, 3):
        sink.write(event(i))
    assert [b["id"] for b in bodies(receiver)] == ["e00005", "e00003"]


def test_a_clock_that_was_set_back_is_no_cool_down(receiver, webhook):
    sink = webhook(cooldown=10.0)
    for i, at in enumerate([1e9, 1e9 - 3600, 1e9 - 3591]):
        sink.write(event(i, at=at - i))
    assert [b["id"] for b in bodies(receiver)] == ["e00000", "e00001"]


def test_a_cool_down_is_of_a_label_over_all_sources_whichever_is_ahead(receiver, webhook):
    sink = webhook(cooldown=5.0)
    heard = [("Yard", 0), ("Yard", 7), ("Gate", 0), ("Yard", 9), ("Yard", 14), ("Gate", 7), ("Gate", 20), ("Yard", 19)]
    for i, (source, began) in enumerate(heard):
        sink.write(event(i, at=1e9 + began - i) | {"source": source})
    assert [b["id"] for b in bodies(receiver)] == ["e00000", "e00001", "e00004", "e00006"]
    for i, (source, began) in enumerate([("Yard", 2), ("Gate", 4), ("Yard", 7)], len(heard)):  # a clock was set back
        sink.write(event(i, at=1e9 + began - i) | {"source": source})
    assert [b["id"] for b in bodies(receiver)[4:]] == ["e00008", "e00010"]


def test_a_second_attempt_is_not_held_back_by_the_cool_down(receiver, webhook):
    receiver.answers = [(503, {})]
    delivery = Delivery(webhook(cooldown=60.0), "webhook", first_wait=0.01)
    delivery.write(event(0))
    delivery.close()
    assert [b["id"] for b in bodies(receiver)] == ["e00000", "e00000"]
    assert delivery.stats().delivered == 1


def test_an_outage_of_the_receiver_loses_nothing(tmp_path):
    """It is not there, comes, hangs, answers 500, and goes on."""
    port = free_port()
    sink = Webhook(WebhookConfig(url=f"http://127.0.0.1:{port}/", timeout=0.3))
    delivery = Delivery(sink, "webhook", spool=tmp_path / "spool", first_wait=0.01, longest_wait=0.1)
    for i in range(20):
        delivery.write(event(i))
    wait_until(lambda: delivery.stats().spooled == 20)
    with http_receiver(port) as server:
        server.answers = [(500, {}), (503, {"Retry-After": "0"})]
        wait_until(lambda: delivery.stats().delivered == 20)
        server.hold.clear()
        for i in range(20, 40):
            delivery.write(event(i))
        wait_until(lambda: delivery.stats().retries > 3)
        server.hold.set()
        wait_until(lambda: delivery.stats().delivered == 40)
        delivery.close()
        seen = list(dict.fromkeys(ids(bodies(server))))  # at least once: a request without an answer came twice
    assert seen == ids(event(i) for i in range(40))
    assert delivery.stats().dropped == 0


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"url": ""}, "url is ''"), ({"url": "ftp://host/"}, "url is"), ({"url": "http://"}, "url is"),
        ({"url": "http://host:99999/"}, "url is"), ({"url": "http://xn--/"}, "url is"),
        ({"url": "http://a..b/"}, "url is"), ({"url": f"http://{'a' * 64}.org/"}, "url is"),
        ({"phases": ("start",)}, "phases are ['start']"), ({"timeout": 1e300}, "timeout is 1e+300 (use seconds above"),
        ({"longest_retry_after": 1e12}, "longest_retry_after is 1000000000000.0 (use seconds, at most"),
        ({"timeout": 0.0}, "timeout is 0.0"), ({"timeout": -1.0}, "timeout is -1.0"),
        ({"cooldown": -5.0}, "cooldown is -5.0 (use seconds, 0 or more)"),
        ({"cooldowns": {"Dog": 1.0, "Cat": -1.0}}, "cooldowns.Cat is -1.0"),
        ({"longest_retry_after": -0.5}, "longest_retry_after is -0.5"), ({"cooldown": math.nan}, "cooldown is nan"),
        ({"headers": {"Bad Name": "x"}}, "a header is called 'Bad Name' (use letters, digits and -)"),
        ({"headers": {"": "x"}}, "a header is called ''"), ({"headers": {"X:": "x"}}, "a header is called 'X:'"),
        ({"headers": {"X": "ü"}}, "header X has a value"), ({"headers": {"X": "a\nb"}}, "header X has a value"),
        ({"headers": {"X": " a"}}, "header X has a value"),
    ],
)  # fmt: skip
def test_settings_that_make_no_sense(settings, says):
    with pytest.raises(SinkError, match=f"^webhook: {re.escape(says)}") as caught:
        Webhook(WebhookConfig(**{"url": "http://localhost/", **settings}))
    assert not caught.value.retry
    assert "\n" not in str(caught.value)


def test_headers_that_http_allows_arrive(receiver, webhook):
    allowed = {"X-Edge_1!": "Bearer a b=", "Empty": "", "One": "1"}
    webhook(headers=allowed).write(event(0))
    assert {name: receiver.requests[0][0][name] for name in allowed} == allowed


def test_without_httpx_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr("edge.extras.find_spec", lambda name: None)
    with pytest.raises(SinkError, match=r"pip install 'edge-listen\[http\]'"):
        Webhook(WebhookConfig(url="http://localhost/"))


def test_the_configuration_is_built_from_a_table():
    table = {
        "url": "http://localhost/", "phases": ["begin"], "template": None, "secret_env": None, "secret_file": None,
        "timeout": 5, "cooldown": 1, "cooldowns": {"Dog": 60}, "headers": {"A": "b"}, "longest_retry_after": 9,
    }  # fmt: skip
    assert build(WebhookConfig, table) == WebhookConfig(
        url="http://localhost/", phases=("begin",), timeout=5.0, cooldown=1.0, cooldowns={"Dog": 60.0},
        headers={"A": "b"}, longest_retry_after=9.0,
    )  # fmt: skip


def test_httpx_does_not_log_urls_on_every_request(receiver, webhook, caplog):
    with caplog.at_level(logging.INFO):
        webhook().write(event(0))
    assert not [r for r in caplog.records if "/hook" in r.getMessage()]
