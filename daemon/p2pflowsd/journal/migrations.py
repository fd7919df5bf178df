"""The journal's schema, as a list of small steps; each is committed together with the new schema version.

Never edit a step that was released: append a new one.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable


def _first(db: sqlite3.Connection) -> None:
    for statement in (
        "CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID",
        """CREATE TABLE incoming (
             n INTEGER PRIMARY KEY, id TEXT NOT NULL, peer TEXT NOT NULL, type TEXT NOT NULL, endpoint TEXT NOT NULL,
             epoch INTEGER NOT NULL, seq INTEGER NOT NULL, conversation TEXT NOT NULL, body BLOB, bundle INTEGER,
             received INTEGER NOT NULL, expires INTEGER NOT NULL, state TEXT NOT NULL,
             attempts INTEGER NOT NULL DEFAULT 0, error TEXT, UNIQUE (peer, id)) STRICT""",
        """CREATE INDEX incoming_live ON incoming (state, expires)
             WHERE state IN ('blocked', 'held', 'ready', 'asked', 'dead')""",
        """CREATE TABLE bundles (
             n INTEGER PRIMARY KEY, peer TEXT NOT NULL, proof BLOB NOT NULL, expires INTEGER NOT NULL) STRICT""",
        """CREATE TABLE outgoing (
             n INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, type TEXT NOT NULL, peer TEXT NOT NULL,
             endpoint TEXT NOT NULL, epoch INTEGER NOT NULL, seq INTEGER NOT NULL, conversation TEXT NOT NULL,
             cause TEXT, body BLOB, created INTEGER NOT NULL, expires INTEGER NOT NULL, state TEXT NOT NULL,
             note TEXT NOT NULL DEFAULT '', answer BLOB, ended INTEGER) STRICT""",
        "CREATE INDEX outgoing_live ON outgoing (expires) WHERE state IN ('pending', 'stored')",
        """CREATE TABLE streams (
             way TEXT NOT NULL, peer TEXT NOT NULL, endpoint TEXT NOT NULL, epoch INTEGER NOT NULL,
             seq INTEGER NOT NULL, PRIMARY KEY (way, peer, endpoint)) STRICT, WITHOUT ROWID""",
        """CREATE TABLE prompts (
             n INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, peer TEXT NOT NULL, type TEXT NOT NULL,
             endpoint TEXT NOT NULL, conversation TEXT NOT NULL, text TEXT NOT NULL, data TEXT NOT NULL,
             received INTEGER NOT NULL,
             expires INTEGER NOT NULL, state TEXT NOT NULL, answer TEXT, ended INTEGER) STRICT""",
        "CREATE INDEX prompts_open ON prompts (n) WHERE state = 'open'",
        "CREATE TABLE served (endpoint TEXT PRIMARY KEY, record TEXT NOT NULL) STRICT, WITHOUT ROWID",
        "CREATE TABLE counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT, WITHOUT ROWID",
    ):
        db.execute(statement)


def _prompts_have_places(db: sqlite3.Connection) -> None:
    """Prompts have an order of their own: a request that arrived too early is asked after those it had to wait for."""
    db.execute("ALTER TABLE prompts ADD COLUMN place INTEGER NOT NULL DEFAULT 0")
    db.execute("UPDATE prompts SET place = n")
    db.execute("CREATE INDEX prompts_place ON prompts (place)")


def _flows_have_instances(db: sqlite3.Connection) -> None:
    """Add instances with their state, records of runs, and answers that run an instance again."""
    for statement in (
        "ALTER TABLE incoming ADD COLUMN instance TEXT",
        "ALTER TABLE incoming ADD COLUMN root INTEGER",
        "ALTER TABLE outgoing ADD COLUMN origin TEXT",
        """CREATE INDEX outgoing_of_root ON outgoing (json_extract(origin, '$.root'))
             WHERE state IN ('pending', 'stored')""",
        "DROP INDEX incoming_live",
        """CREATE INDEX incoming_live ON incoming (state, expires)
             WHERE state IN ('blocked', 'held', 'ready', 'asked', 'kept', 'dead')""",
        """CREATE INDEX incoming_of_instance ON incoming (instance, id)
             WHERE instance IS NOT NULL AND state IN ('ready', 'kept')""",
        """CREATE TABLE instances (
             id TEXT PRIMARY KEY, endpoint TEXT NOT NULL, client TEXT NOT NULL, own INTEGER NOT NULL,
             config TEXT NOT NULL, subflows TEXT NOT NULL, initial TEXT, state TEXT, point TEXT,
             created INTEGER NOT NULL, used INTEGER NOT NULL) STRICT, WITHOUT ROWID""",
        "CREATE INDEX instances_of_client ON instances (endpoint, client)",
        """CREATE TABLE records (
             n INTEGER NOT NULL, k INTEGER NOT NULL, kind TEXT NOT NULL, mark TEXT NOT NULL, message TEXT, value TEXT,
             PRIMARY KEY (n, k)) STRICT, WITHOUT ROWID""",
        """CREATE TABLE log (
             n INTEGER PRIMARY KEY, at INTEGER NOT NULL, what TEXT NOT NULL, peer TEXT NOT NULL, endpoint TEXT NOT NULL,
             detail TEXT NOT NULL) STRICT""",
    ):
        db.execute(statement)


def _prompts_have_labels(db: sqlite3.Connection) -> None:
    """Prompts have the name by which the asking flow knows this human; it is empty for older prompts."""
    db.execute("ALTER TABLE prompts ADD COLUMN label TEXT NOT NULL DEFAULT ''")


def _indexes_cost_less(db: sqlite3.Connection) -> None:
    """Make the conditions of indexes cheaper to test: comparisons instead of IN, and first whether a run sent it."""
    for statement in (
        "DROP INDEX outgoing_of_root",
        """CREATE INDEX outgoing_of_root ON outgoing (json_extract(origin, '$.root'))
             WHERE origin IS NOT NULL AND state IN ('pending', 'stored')""",
        "DROP INDEX incoming_live",
        """CREATE INDEX incoming_live ON incoming (state, expires)
             WHERE state = 'ready' OR state = 'asked' OR state = 'kept' OR state = 'blocked' OR state = 'held'
                OR state = 'dead'""",
    ):
        db.execute(statement)


def _answers_have_an_index(db: sqlite3.Connection) -> None:
    """Add an index that finds the answers that are still to be run for one request."""
    db.execute("CREATE INDEX incoming_answers ON incoming (root) WHERE root IS NOT NULL AND state = 'ready'")


def _open_requests_have_peers(db: sqlite3.Connection) -> None:
    """Add an index that finds the open requests of one peer without reading those of others."""
    db.execute(
        """CREATE INDEX incoming_open_of_peer ON incoming (peer)
             WHERE state = 'asked' OR state = 'blocked' OR state = 'held' OR state = 'kept' OR state = 'ready'"""
    )


def _blocked_requests_have_an_index(db: sqlite3.Connection) -> None:
    """Add an index that finds the next blocked request of a stream without reading the others."""
    db.execute("CREATE INDEX incoming_blocked ON incoming (peer, endpoint, epoch, seq) WHERE state = 'blocked'")


def _open_prompts_have_peers(db: sqlite3.Connection) -> None:
    """Add an index that counts the open questions of one peer without reading those of others."""
    db.execute("CREATE INDEX prompts_open_of_peer ON prompts (peer) WHERE state = 'open'")


def _inboxes_have_pages(db: sqlite3.Connection) -> None:
    """Add indexes that find a page of the inbox, a prompt by a part of its id, and what ended long ago."""
    db.create_function("backwards", 1, lambda text: text[::-1], deterministic=True)
    for statement in (
        "ALTER TABLE prompts ADD COLUMN backwards TEXT NOT NULL DEFAULT ''",
        "UPDATE prompts SET backwards = backwards(id)",
        "ALTER TABLE prompts ADD COLUMN snoozed INTEGER NOT NULL DEFAULT 0",
        "DROP INDEX prompts_open",
        "DROP INDEX prompts_open_of_peer",
        "CREATE INDEX prompts_open ON prompts (type, place) WHERE state = 'open'",
        "CREATE INDEX prompts_open_of_peer ON prompts (peer, type, place) WHERE state = 'open'",
        "CREATE INDEX prompts_open_since ON prompts (type, received) WHERE state = 'open'",
        "CREATE INDEX prompts_open_id ON prompts (id) WHERE state = 'open'",
        "CREATE INDEX prompts_open_backwards ON prompts (backwards) WHERE state = 'open'",
        "CREATE INDEX prompts_open_shown ON prompts (substr(id, -8)) WHERE state = 'open'",
        "CREATE INDEX prompts_backwards ON prompts (backwards)",
        "CREATE INDEX prompts_shown ON prompts (substr(id, -8))",
        "CREATE INDEX prompts_of_peer ON prompts (peer, place)",
        "CREATE INDEX prompts_snoozed ON prompts (snoozed) WHERE snoozed > 0",
        "CREATE INDEX prompts_ended ON prompts (ended) WHERE ended IS NOT NULL",
    ):
        db.execute(statement)


def _kept_requests_have_instances(db: sqlite3.Connection) -> None:
    """Add an index that finds the unanswered requests of an instance without reading those that wait for a run."""
    db.execute("CREATE INDEX incoming_kept ON incoming (instance) WHERE state = 'kept'")


def _people_meet(db: sqlite3.Connection) -> None:
    """Add invitations and whom they brought, introductions, and the wishes of strangers, also of those who wait."""
    for statement in (
        """CREATE TABLE invitations (
             n INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, secret BLOB NOT NULL, name TEXT NOT NULL,
             allow TEXT NOT NULL, uses INTEGER NOT NULL, used INTEGER NOT NULL, created INTEGER NOT NULL,
             expires INTEGER NOT NULL, revoked INTEGER NOT NULL) STRICT""",
        """CREATE TABLE meetings (
             n INTEGER PRIMARY KEY, invitation TEXT NOT NULL, peer TEXT NOT NULL, name TEXT NOT NULL,
             suggested TEXT NOT NULL, way TEXT NOT NULL, at INTEGER NOT NULL, added INTEGER NOT NULL, words TEXT,
             UNIQUE (invitation, peer)) STRICT""",
        """CREATE TABLE introductions (
             n INTEGER PRIMARY KEY, peer TEXT NOT NULL, by TEXT NOT NULL, name TEXT NOT NULL, at INTEGER NOT NULL,
             UNIQUE (peer, by)) STRICT""",
        """CREATE TABLE wishes (
             n INTEGER PRIMARY KEY, peer TEXT NOT NULL UNIQUE, endpoints TEXT NOT NULL, first INTEGER NOT NULL,
             last INTEGER NOT NULL) STRICT""",
        """INSERT INTO wishes (peer, endpoints, first, last)
             SELECT peer, json_group_array(DISTINCT endpoint), min(received), max(received) FROM incoming
             WHERE state = 'held' GROUP BY peer""",
    ):
        db.execute(statement)


def _worker_tokens_have_a_table(db: sqlite3.Connection) -> None:
    """List worker tokens. A journal that an earlier release began has one entry for its tokens of each point.

    Those had no id, so all of one point are one key. In a new journal there is no such token to accept.
    """
    db.execute(
        """CREATE TABLE worker_tokens (
             id TEXT PRIMARY KEY, point TEXT NOT NULL, name TEXT NOT NULL, created INTEGER NOT NULL, expires INTEGER,
             revoked INTEGER) STRICT, WITHOUT ROWID"""
    )
    if db.execute("SELECT 1 FROM meta WHERE key = 'user'").fetchone() is not None:
        db.execute("INSERT INTO meta (key, value) VALUES ('old_worker_tokens', 'accepted')")
        db.execute(
            """INSERT INTO worker_tokens
                 SELECT DISTINCT 'old-' || json_extract(record, '$.dispatch_point'),
                   json_extract(record, '$.dispatch_point'), '', 0, NULL, NULL
                 FROM served WHERE json_extract(record, '$.dispatch_point') != ''"""
        )


def _people_talk(db: sqlite3.Connection) -> None:
    """Add what the user and other people have said to each other, which outlives the messages."""
    for statement in (
        """CREATE TABLE lines (
             n INTEGER PRIMARY KEY AUTOINCREMENT, peer TEXT NOT NULL, by_me INTEGER NOT NULL, kind TEXT NOT NULL,
             message TEXT NOT NULL, endpoint TEXT NOT NULL, conversation TEXT NOT NULL, label TEXT NOT NULL,
             text TEXT NOT NULL, at INTEGER NOT NULL, state TEXT NOT NULL) STRICT""",
        "CREATE INDEX lines_of_peer ON lines (peer, n)",
        "CREATE INDEX lines_of_message ON lines (message)",
        "CREATE INDEX lines_of_conversation ON lines (conversation, n)",
        "CREATE INDEX lines_under_way ON lines (n) WHERE state = 'sent' OR state = 'held' OR state = 'delivered'",
        "CREATE TABLE titles (conversation TEXT PRIMARY KEY, title TEXT NOT NULL) STRICT, WITHOUT ROWID",
    ):
        db.execute(statement)


def _questions_are_kept(db: sqlite3.Connection) -> None:
    """Add the questions that this user asks other humans."""
    db.execute(
        """CREATE TABLE questions (
             n INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, text TEXT NOT NULL, wish TEXT NOT NULL,
             people TEXT NOT NULL, created INTEGER NOT NULL, expires INTEGER NOT NULL, due INTEGER,
             state TEXT NOT NULL, result TEXT, ended INTEGER) STRICT"""
    )
    db.execute("CREATE INDEX questions_open ON questions (due) WHERE state = 'open'")


def _prompts_have_flows(db: sqlite3.Connection) -> None:
    """Prompts have the flow that asks, with its dispatch point; it is empty for older prompts."""
    db.execute("ALTER TABLE prompts ADD COLUMN flow TEXT NOT NULL DEFAULT ''")


_USAGE_OF_STATE = {
    "blocked": "= 'blocked'",
    "held": "= 'held'",
    "tasks": "IN ('ready', 'kept')",
    "dead": "= 'dead'",
    "questions": "= 'asked'",
    "remembered": "IN ('done', 'failed', 'expired')",
}


def _usage_is_counted(db: sqlite3.Connection) -> None:
    """Count what each peer fills, in a table that triggers keep."""
    states = _USAGE_OF_STATE.items()
    names = ", ".join(_USAGE_OF_STATE)
    counters = ", ".join(f"{name} INTEGER NOT NULL DEFAULT 0" for name in [*_USAGE_OF_STATE, "answers", "bytes"])
    added = ", ".join(f"NEW.state {condition}" for _, condition in states)
    summed = ", ".join(f"{name} = {name} + excluded.{name}" for name in [*_USAGE_OF_STATE, "bytes"])
    moved = ", ".join(f"{name} = {name} + (NEW.state {each}) - (OLD.state {each})" for name, each in states)
    removed = ", ".join(f"{name} = {name} - (OLD.state {condition})" for name, condition in states)
    totals = ", ".join(f"CAST(total(state {condition}) AS INTEGER)" for _, condition in states)
    size = "coalesce(length({0}.body), 0)"
    question = "(length(CAST({0}.text AS BLOB)) + length(CAST({0}.data AS BLOB)))"
    is_answer = "{0}.type IN ('reply', 'error')"
    waits = "({0}.state IN ('pending', 'stored'))"
    for statement in (
        f"CREATE TABLE usage (peer TEXT PRIMARY KEY, {counters}) STRICT, WITHOUT ROWID",
        "CREATE INDEX prompts_ended_of_peer ON prompts (peer, n) WHERE state != 'open'",
        f"""CREATE TRIGGER usage_of_request AFTER INSERT ON incoming BEGIN
             INSERT INTO usage (peer, {names}, bytes) VALUES (NEW.peer, {added}, {size.format("NEW")})
               ON CONFLICT (peer) DO UPDATE SET {summed}; END""",
        f"""CREATE TRIGGER usage_of_moved_request AFTER UPDATE OF state, body ON incoming BEGIN
             UPDATE usage SET {moved}, bytes = bytes + {size.format("NEW")} - {size.format("OLD")}
               WHERE peer = NEW.peer; END""",
        f"""CREATE TRIGGER usage_of_removed_request AFTER DELETE ON incoming BEGIN
             UPDATE usage SET {removed}, bytes = bytes - {size.format("OLD")} WHERE peer = OLD.peer; END""",
        f"""CREATE TRIGGER usage_of_question AFTER INSERT ON prompts BEGIN
             INSERT INTO usage (peer, bytes) VALUES (NEW.peer, {question.format("NEW")})
               ON CONFLICT (peer) DO UPDATE SET bytes = bytes + excluded.bytes; END""",
        f"""CREATE TRIGGER usage_of_removed_question AFTER DELETE ON prompts BEGIN
             UPDATE usage SET bytes = bytes - {question.format("OLD")} WHERE peer = OLD.peer; END""",
        f"""CREATE TRIGGER usage_of_answer AFTER INSERT ON outgoing WHEN {is_answer.format("NEW")} BEGIN
             INSERT INTO usage (peer, answers, bytes) VALUES (NEW.peer, 1, {size.format("NEW")})
               ON CONFLICT (peer) DO UPDATE SET answers = answers + 1, bytes = bytes + excluded.bytes; END""",
        f"""CREATE TRIGGER usage_of_moved_answer AFTER UPDATE OF state, body ON outgoing
             WHEN {is_answer.format("NEW")} BEGIN
             UPDATE usage SET answers = answers + {waits.format("NEW")} - {waits.format("OLD")},
               bytes = bytes + {size.format("NEW")} - {size.format("OLD")} WHERE peer = NEW.peer; END""",
        f"""CREATE TRIGGER usage_of_removed_answer AFTER DELETE ON outgoing WHEN {is_answer.format("OLD")} BEGIN
             UPDATE usage SET answers = answers - {waits.format("OLD")}, bytes = bytes - {size.format("OLD")}
               WHERE peer = OLD.peer; END""",
        f"""INSERT INTO usage (peer, {names}, bytes)
             SELECT peer, {totals}, CAST(total(length(body)) AS INTEGER) FROM incoming GROUP BY peer""",
        f"""INSERT INTO usage (peer, bytes)
             SELECT peer, CAST(total({question.format("prompts")}) AS INTEGER) FROM prompts WHERE true GROUP BY peer
             ON CONFLICT (peer) DO UPDATE SET bytes = bytes + excluded.bytes""",
        f"""INSERT INTO usage (peer, answers, bytes)
             SELECT peer, CAST(total({waits.format("outgoing")}) AS INTEGER), CAST(total(length(body)) AS INTEGER)
               FROM outgoing WHERE {is_answer.format("outgoing")} GROUP BY peer
             ON CONFLICT (peer) DO UPDATE SET answers = excluded.answers, bytes = bytes + excluded.bytes""",
    ):
        db.execute(statement)


def _questions_are_claimed(db: sqlite3.Connection) -> None:
    """Keep who says to be answering a question, and until when."""
    for table in ("prompts", "questions"):
        db.execute(f"ALTER TABLE {table} ADD COLUMN claimed_by TEXT NOT NULL DEFAULT ''")
        db.execute(f"ALTER TABLE {table} ADD COLUMN claimed_until INTEGER NOT NULL DEFAULT 0")
    db.execute("ALTER TABLE questions ADD COLUMN claims INTEGER NOT NULL DEFAULT 0")


def _usage_is_counted_in_memory(db: sqlite3.Connection) -> None:
    """Remove the triggers that kept the counts, at a cost for every row; `UsageTable` writes them now."""
    for trigger in (
        "usage_of_request",
        "usage_of_moved_request",
        "usage_of_removed_request",
        "usage_of_question",
        "usage_of_removed_question",
        "usage_of_answer",
        "usage_of_moved_answer",
        "usage_of_removed_answer",
    ):
        db.execute(f"DROP TRIGGER {trigger}")


def _long_bodies_have_a_table(db: sqlite3.Connection) -> None:
    """Keep long bodies and answers apart from the rows of their messages, so that no move writes them again.

    Those that an earlier release has stored stay in their rows.
    """
    db.execute("CREATE TABLE bodies (n INTEGER PRIMARY KEY, body BLOB NOT NULL) STRICT")
    for table, column, kind in (("incoming", "large", 0), ("outgoing", "large", 1), ("outgoing", "large_answer", 2)):
        db.execute(f"ALTER TABLE {table} ADD COLUMN {column} INTEGER NOT NULL DEFAULT 0")
        for what, event, condition in (
            ("dropped", f"UPDATE OF {column}", f"OLD.{column} > 0 AND NEW.{column} = 0"),
            ("removed", "DELETE", f"OLD.{column} > 0"),
        ):
            db.execute(
                f"""CREATE TRIGGER {table}_{column}_{what} AFTER {event} ON {table} WHEN {condition} BEGIN
                     DELETE FROM bodies WHERE n = OLD.n * 3 + {kind}; END"""
            )


def _requests_want_progress(db: sqlite3.Connection) -> None:
    """Requests say whether their sender wants to hear how far they have got; older ones do not."""
    db.execute("ALTER TABLE incoming ADD COLUMN wants_progress INTEGER NOT NULL DEFAULT 0")


def _spending_is_kept(db: sqlite3.Connection) -> None:
    """Add what was spent at models."""
    db.execute(
        """CREATE TABLE spending (
             day INTEGER NOT NULL, endpoint TEXT NOT NULL, caller TEXT NOT NULL, model TEXT NOT NULL,
             is_direct INTEGER NOT NULL, calls INTEGER NOT NULL, tokens_in INTEGER NOT NULL,
             tokens_out INTEGER NOT NULL, cached INTEGER NOT NULL, cost INTEGER NOT NULL,
             PRIMARY KEY (day, endpoint, caller, model, is_direct)) STRICT, WITHOUT ROWID"""
    )


def _ended_requests_take_less(db: sqlite3.Connection) -> None:
    """Add a table for the ids of requests that have ended, and note which answers a program has got."""
    for statement in (
        "CREATE TABLE senders (n INTEGER PRIMARY KEY, user TEXT NOT NULL UNIQUE) STRICT",
        """CREATE TABLE remembered (
             sender INTEGER NOT NULL, id BLOB NOT NULL, until INTEGER NOT NULL,
             PRIMARY KEY (sender, id)) STRICT, WITHOUT ROWID""",
        "ALTER TABLE outgoing ADD COLUMN fetched INTEGER NOT NULL DEFAULT 0",
        "CREATE INDEX outgoing_large ON outgoing (ended) WHERE fetched = 2",
    ):
        db.execute(statement)


def _instances_have_an_order(db: sqlite3.Connection) -> None:
    """Let the index of a client's instances find the longest unused one without reading the others."""
    db.execute("DROP INDEX instances_of_client")
    db.execute("CREATE INDEX instances_of_client ON instances (endpoint, client, own, used)")


def _calls_of_instances_have_an_index(db: sqlite3.Connection) -> None:
    """Add an index that finds the open calls whose answers run one instance, without reading those of others."""
    db.execute(
        """CREATE INDEX outgoing_of_instance ON outgoing (json_extract(origin, '$.instance'))
             WHERE origin GLOB '{"instance"*' AND state IN ('pending', 'stored')"""
    )


def _files_travel_beside_messages(db: sqlite3.Connection) -> None:
    """Add the files that messages refer to, who may fetch them, and the requests that wait for some."""
    for statement in (
        """CREATE TABLE files (
             id TEXT PRIMARY KEY, sha256 TEXT NOT NULL, size INTEGER NOT NULL, name TEXT NOT NULL, type TEXT NOT NULL,
             peer TEXT NOT NULL, state TEXT NOT NULL, error TEXT NOT NULL, created INTEGER NOT NULL,
             used INTEGER NOT NULL, needed INTEGER NOT NULL) STRICT, WITHOUT ROWID""",
        "CREATE INDEX files_of_peer ON files (peer, state, size)",
        "CREATE INDEX files_by_hash ON files (sha256)",
        "CREATE INDEX files_by_use ON files (used)",
        """CREATE TABLE file_grants (
             file TEXT NOT NULL, peer TEXT NOT NULL, expires INTEGER NOT NULL, state TEXT NOT NULL,
             PRIMARY KEY (file, peer)) STRICT, WITHOUT ROWID""",
        """CREATE TABLE awaited (
             n INTEGER PRIMARY KEY, peer TEXT NOT NULL, endpoint TEXT NOT NULL, files TEXT NOT NULL) STRICT""",
    ):
        db.execute(statement)


def _file_grants_have_peers(db: sqlite3.Connection) -> None:
    """Add an index that says whether a user may fetch anything."""
    db.execute("CREATE INDEX file_grants_of_peer ON file_grants (peer, expires)")


STEPS: tuple[Callable[[sqlite3.Connection], None], ...] = (
    _first,
    _prompts_have_places,
    _flows_have_instances,
    _prompts_have_labels,
    _indexes_cost_less,
    _answers_have_an_index,
    _open_requests_have_peers,
    _blocked_requests_have_an_index,
    _open_prompts_have_peers,
    _inboxes_have_pages,
    _kept_requests_have_instances,
    _people_meet,
    _people_talk,
    _questions_are_kept,
    _worker_tokens_have_a_table,
    _prompts_have_flows,
    _usage_is_counted,
    _questions_are_claimed,
    _usage_is_counted_in_memory,
    _long_bodies_have_a_table,
    _requests_want_progress,
    _spending_is_kept,
    _ended_requests_take_less,
    _instances_have_an_order,
    _calls_of_instances_have_an_index,
    _files_travel_beside_messages,
    _file_grants_have_peers,
)


def migrate(db: sqlite3.Connection) -> None:
    """Bring the schema of a journal up to date; a step that fails has no effect once the connection is closed.

    Raises:
        sqlite3.DatabaseError: the file cannot be written, or is not a SQLite file.
        ValueError: a newer release has written the file.
    """
    (version,) = db.execute("PRAGMA user_version").fetchone()
    if version > len(STEPS):
        raise ValueError(f"the journal has schema {version}, this release knows {len(STEPS)}")
    for number, step in enumerate(STEPS[version:], start=version + 1):
        db.execute("BEGIN IMMEDIATE")
        step(db)
        db.execute(f"PRAGMA user_version = {number}")
        db.execute("COMMIT")
