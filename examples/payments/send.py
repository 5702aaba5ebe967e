"""Sends 2,000 payments of one morning to the topic `payments`: some twice, some late, some broken. The same each time."""

from __future__ import annotations

import json
import random
import sys
from datetime import datetime, timedelta, timezone

from confluent_kafka import Producer

MORNING = datetime(2026, 3, 2, 8, tzinfo=timezone.utc)
PAYMENTS = 2_000


def payments() -> list[dict[str, str]]:
    rng = random.Random(1)
    made = []
    for number in range(PAYMENTS):
        late = timedelta(hours=2) if number % 100 == 99 else timedelta()
        at = MORNING + timedelta(seconds=number * 7 + rng.randrange(30)) - late
        made.append(
            {
                "payment_id": f"p-{number:05d}",
                "region": rng.choice(("north", "south", "east", "west")),
                "method": "cheque" if number % 150 == 149 else rng.choice(("card", "transfer", "cash")),
                "amount": f"{rng.randrange(100, 50_000) / 100:.2f}",
                "timestamp": at.isoformat(),
            }
        )
        if number % 50 == 0:
            made.append(made[-1])
    return made


def main(bootstrap_servers: str, topic: str = "payments") -> None:
    producer = Producer({"bootstrap.servers": bootstrap_servers})
    for payment in payments():
        producer.produce(topic, json.dumps(payment), key=payment["payment_id"])
    producer.flush()
    print(f"{PAYMENTS} payments sent to {topic}")


if __name__ == "__main__":
    main(*sys.argv[1:])
