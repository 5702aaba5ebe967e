"""What is checked before a streaming query starts; and what is noted in its checkpoint, so that it can be checked.

Spark's checkpoint says how far a query has read, and nothing about what it has read and written. That is kept in
`<checkpoint>/pipeline/`: `sources.json` (which topics, by their ids), `plan.json` (what must not change), both written
before the first batch, and `tables.json` (the version of each table after a batch), written before Spark's own mark.

What only compares writes nothing: `pipeline plan` asks the same rules before anything starts.
"""

from pipeline.guards.notes import Comparison, Difference, note_rules, noted_rules
from pipeline.guards.plans import check_plan, check_precedence, compared_plan, noted_store
from pipeline.guards.space import require_space
from pipeline.guards.tables import check_columns, check_tables, compared_columns, table_notes
from pipeline.guards.topics import check_sources, compared_sources, replaced_topics, same_topics

__all__ = [
    "Comparison",
    "Difference",
    "check_columns",
    "check_plan",
    "check_precedence",
    "check_sources",
    "check_tables",
    "compared_columns",
    "compared_plan",
    "compared_sources",
    "note_rules",
    "noted_rules",
    "noted_store",
    "replaced_topics",
    "require_space",
    "same_topics",
    "table_notes",
]
