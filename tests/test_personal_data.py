"""What is told about a failure has no customer in it, whoever quotes one."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from pipeline import cli, console
from pipeline.errors import DependencyError
from pipeline.personal_data import without_personal_data
from pipeline.settings import load, without_secrets
from slack_server import slack

HIDDEN = ("zoe", "Zoë", "c-17", "555-1234")
SAID = [
    "no mail to zoe.o'neil+shop@mail.shop.example today",
    '{"customer_id": "c-17", "email": "zoe@shop.example", "name": "Zoë \\"Z\\" O", "total": "1.00"}',
    "{'customer_id': 'c-17', 'name': 'Zoë'}",
    '{"customer_id": "c-17", "phone": "555-1234"}',
    "Row(customer_id='c-17', name='Zoë', email=None)",
    "DETAIL:  Failing row contains (c-17, Zoë, zoe@shop.example).",
    "duplicate key\nDETAIL:  Key (customer_id, email)=(c-17, zoe@shop.example) already exists.",
    'CONTEXT:  COPY new_facts, line 3, column total: "Zoë"',
    'invalid input syntax for type numeric: "Zoë"',
    '[CAST_INVALID_INPUT] The value \'Zoë c-17\' of the type "STRING" cannot be cast to "DECIMAL".',
    "CHECK constraint violated by row with values:\n - customer_id : c-17\n - name : Zoë",
]
KEPT = [
    "Kafka at 10.0.0.1:9092 has no topic orders.",
    "abfss://container@account.dfs.core.windows.net/lake",
    "query customer_totals_v1, topic orders partition 0",
    "✓ batch customer_hourly_spend  7.5 s",
    '{"view": "customer_hourly_spend"}',
    "Key and value need not agree.",
]


@pytest.mark.parametrize("text", SAID)
def test_what_quotes_a_customer_is_masked(text: str) -> None:
    shown = without_personal_data(text)
    assert not any(one in shown for one in HIDDEN)
    assert "********" in shown


@pytest.mark.parametrize("text", KEPT)
def test_what_is_no_customer_stays(text: str) -> None:
    assert without_personal_data(text) == text


def test_logs_alerts_and_what_is_kept_of_them_are_masked(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it happens: a job fails with an error that quotes a row and a password."""
    book = tmp_path / "alerts.db"
    with slack() as there, contextlib.ExitStack() as held:
        monkeypatch.setenv("PIPELINE_ALERTS__WEBHOOK_URL", there.webhook)
        monkeypatch.setenv("PIPELINE_ALERTS__STATE_FILE", str(book))
        monkeypatch.setenv("SHOP_PASSWORD", "hunter2")
        url = "--set=postgres.source_url=postgresql://me:${env:SHOP_PASSWORD}@host/shop"
        for raised in (
            DependencyError("\n".join([*SAID, "password hunter2"])),
            RuntimeError("\n".join(SAID)),
        ):

            def fail(*_: object, error: Exception = raised, **__: object) -> None:
                raise error

            held.enter_context(pytest.MonkeyPatch.context()).setattr("pipeline.etl.run", fail)
            assert cli.main(["etl-orders", "--debug", url]) in (3, 70)
        there.wait_for(1)
        sent = " ".join(there.texts)
    told = capsys.readouterr().err
    assert "********" in told
    assert "********" in sent
    kept = book.read_bytes().decode(errors="replace")
    for text in (told, sent, kept):
        assert not [one for one in (*HIDDEN, "hunter2") if one in text]
    assert book.stat().st_mode & 0o077 == 0


def test_a_step_of_a_job_masks_nothing_that_it_says_itself(capsys: pytest.CaptureFixture[str]) -> None:
    console.mask(lambda text: text)
    with console.step("batch customer_totals"):
        console.note("customers: 17")
    assert "customers: 17" in capsys.readouterr().err


def test_a_password_inside_of_a_login_is_masked_by_itself() -> None:
    login = 'x.ScramLoginModule required username="orders" password="${env:P}";'
    loaded = load("test", [f"kafka.options.kafka.sasl.jaas.config={login}"], {"P": "hun;ter 2"})
    assert without_secrets(loaded, "orders: hun;ter 2 is wrong") == "orders: ******** is wrong"
