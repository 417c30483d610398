//! The first schema: a command is a fact, *live* while something may still happen to it, then *ended*.
//!
//! `orchestratum_commands` holds what was asked and is never written again. A command that has not ended has one
//! narrow row in `orchestratum_live`, which the claim changes in place; a command that has ended has one in
//! `orchestratum_ended` instead. The wide row is therefore written once, not once a transition.

use sea_orm_migration::prelude::*;

use crate::dialect::{Dialect, render, shown_time};

/// The version that `orchestratum_schema` holds once this migration has run.
pub(crate) const VERSION: i32 = 1;

pub(crate) struct Migration;

impl MigrationName for Migration {
    fn name(&self) -> &'static str {
        "m20261124_000001_orchestratum_create_tables"
    }
}

#[allow(elided_lifetimes_in_paths, reason = "the trait is declared with the lifetime elided")]
#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let dialect = Dialect::of(manager.get_connection()).await?;
        crate::execute_all(manager, &up(dialect)).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        crate::execute_all(manager, &down()).await
    }
}

/// Each statement can be run again after a kill in the middle: MariaDB commits every one of them by itself.
pub(crate) fn up(dialect: Dialect) -> Vec<String> {
    let mut statements: Vec<_> = TABLES.iter().map(|template| table(template, dialect)).collect();
    statements.extend(indexes(dialect));
    statements.push("DROP VIEW IF EXISTS orchestratum_overview".to_owned());
    statements.push(overview(dialect));
    if dialect == Dialect::Sqlite {
        statements.push("DROP VIEW IF EXISTS orchestratum_append".to_owned());
        statements.extend(APPEND_VIEW.map(str::to_owned));
    }
    statements.push("DELETE FROM orchestratum_schema".to_owned());
    statements.push(format!("INSERT INTO orchestratum_schema (version) VALUES ({VERSION})"));
    statements
}

pub(crate) fn down() -> Vec<String> {
    let mut statements: Vec<_> =
        ["overview", "append"].iter().map(|view| format!("DROP VIEW IF EXISTS orchestratum_{view}")).collect();
    for table in ["schema", "queues", "attempts", "ended", "live", "commands", "instances"] {
        statements.push(format!("DROP TABLE IF EXISTS orchestratum_{table}"));
    }
    statements
}

/// What no program of ours writes is refused, so that a slip of somebody's hand cannot stop a worker that reads it: a
/// count that overflows, an instant that cannot be subtracted, a running command that nobody holds.
const TABLES: [&str; 7] = [
    "CREATE TABLE IF NOT EXISTS orchestratum_schema (
    version {number} NOT NULL PRIMARY KEY
){narrow}",
    "CREATE TABLE IF NOT EXISTS orchestratum_commands (
    id {uuid} NOT NULL PRIMARY KEY{sixteen},
    queue {name} NOT NULL,
    command_key {name} NOT NULL,
    priority {small} NOT NULL CHECK (priority BETWEEN -32768 AND 32767),
    payload {text} NOT NULL,
    timeout_ms {large} NOT NULL CHECK (timeout_ms >= 0),
    retry_count {number} NOT NULL CHECK (retry_count BETWEEN 0 AND 2147483647),
    retry_policy {text},
    follow_ups {text},
    unique_key {name},
    created_at {large} NOT NULL
){options}",
    "CREATE TABLE IF NOT EXISTS orchestratum_live (
    id {uuid} NOT NULL PRIMARY KEY{sixteen},
    state {name} NOT NULL CHECK (state IN ('pending', 'blocked', 'running')),
    queue {name} NOT NULL,
    command_key {name} NOT NULL,
    priority {small} NOT NULL CHECK (priority BETWEEN -32768 AND 32767),
    run_at {large} NOT NULL CHECK (run_at BETWEEN -{far} AND {far}),
    attempt {number} NOT NULL CHECK (attempt BETWEEN 0 AND {many}),
    failures {number} NOT NULL CHECK (failures BETWEEN 0 AND {many}),
    losses {number} NOT NULL CHECK (losses BETWEEN 0 AND {many}),
    instance {uuid}{sixteen_of_instance},
    cancel_requested {flag} NOT NULL,
    unique_key {name},
    CHECK ((state = 'running') = (instance IS NOT NULL)){live_indexes}
){hot}",
    "CREATE TABLE IF NOT EXISTS orchestratum_ended (
    id {uuid} NOT NULL PRIMARY KEY{sixteen},
    state {name} NOT NULL CHECK (state IN ('completed', 'failed', 'canceled')),
    attempt {number} NOT NULL CHECK (attempt BETWEEN 0 AND 2147483647),
    instance {uuid}{sixteen_of_instance},
    finished_at {large} NOT NULL,
    duration_ms {large},
    output {text},
    error {text}{ended_indexes}
){narrow}",
    "CREATE TABLE IF NOT EXISTS orchestratum_attempts (
    command_id {uuid} NOT NULL{sixteen_of_command},
    attempt {number} NOT NULL,
    kind {name} NOT NULL,
    error {text} NOT NULL,
    instance {uuid}{sixteen_of_instance},
    ended_at {large} NOT NULL,
    PRIMARY KEY (command_id, attempt)
){options}",
    "CREATE TABLE IF NOT EXISTS orchestratum_instances (
    id {uuid} NOT NULL PRIMARY KEY{sixteen},
    name {name} NOT NULL,
    started_at {large} NOT NULL,
    expires_at {large} NOT NULL,
    fenced_at {large}
){narrow}",
    "CREATE TABLE IF NOT EXISTS orchestratum_queues (
    name {name} NOT NULL PRIMARY KEY,
    paused_at {large} NOT NULL
){narrow}",
];

/// append, on SQLite: a new command's two rows in one statement, which is a transaction by itself. Nothing to read in it.
const APPEND_VIEW: [&str; 2] = [
    "CREATE VIEW orchestratum_append AS
SELECT c.id, c.queue, c.command_key, c.priority, c.payload, c.timeout_ms, c.retry_count, c.retry_policy, c.follow_ups,
    c.unique_key, c.created_at, l.state, l.run_at, l.attempt, l.instance
FROM orchestratum_commands c JOIN orchestratum_live l ON l.id = c.id WHERE false",
    // No line ends with a semicolon: whoever runs the script by statements cuts it there.
    "CREATE TRIGGER orchestratum_append_both INSTEAD OF INSERT ON orchestratum_append BEGIN
    INSERT INTO orchestratum_live (id, state, queue, command_key, priority, run_at, attempt, failures, losses, instance,
        cancel_requested, unique_key)
    VALUES (NEW.id, NEW.state, NEW.queue, NEW.command_key, NEW.priority, NEW.run_at, NEW.attempt, 0, 0, NEW.instance,
        false, NEW.unique_key); INSERT INTO orchestratum_commands (id, queue, command_key, priority, payload, timeout_ms,
        retry_count, retry_policy, follow_ups, unique_key, created_at)
    VALUES (NEW.id, NEW.queue, NEW.command_key, NEW.priority, NEW.payload, NEW.timeout_ms, NEW.retry_count,
        NEW.retry_policy, NEW.follow_ups, NEW.unique_key, NEW.created_at); END",
];

/// Index columns, the query each serves, and whether only rows that the query can want are held.
fn indexes(dialect: Dialect) -> Vec<String> {
    if dialect.is_mysql() {
        return Vec::new(); // inside of the tables, see `mysql_indexes`
    }
    vec![
        // claim: what is due in one lane, oldest first. Not partial: a column in an index predicate would make every
        // claim write its index entries anew.
        format!("CREATE INDEX IF NOT EXISTS {DUE} ON orchestratum_live (queue, command_key, priority, run_at)"),
        // append: one live command per unique key.
        format!(
            "CREATE UNIQUE INDEX IF NOT EXISTS {UNIQUE} ON orchestratum_live (unique_key) WHERE unique_key IS NOT NULL"
        ),
        // list: what needs an operator. Completed commands, nearly all of them, stay out and cost nothing here.
        format!("CREATE INDEX IF NOT EXISTS {ENDED} ON orchestratum_ended (state, id) WHERE state <> 'completed'"),
    ]
}

const DUE: &str = "ix_orchestratum_live__due";
const UNIQUE: &str = "ux_orchestratum_live__unique_key";
const ENDED: &str = "ix_orchestratum_ended__state";

/// MySQL has no partial indexes, and its `CREATE INDEX` no `IF NOT EXISTS`.
fn mysql_indexes(table: &str) -> String {
    let indexes = match table {
        "{live_indexes}" => vec![
            format!("KEY {DUE} (queue, command_key, priority, run_at)"),
            format!("UNIQUE KEY {UNIQUE} (unique_key)"),
        ],
        _ => vec![format!("KEY {ENDED} (state, id)")],
    };
    indexes.iter().map(|index| format!(",\n    {index}")).collect()
}

fn table(template: &str, dialect: Dialect) -> String {
    let mut sql = render(template, dialect);
    for place in ["{live_indexes}", "{ended_indexes}"] {
        let indexes = if dialect.is_mysql() { mysql_indexes(place) } else { String::new() };
        sql = sql.replace(place, &indexes);
    }
    sql
}

/// One row a command, with its state and readable times: for people, dashboards and reports.
fn overview(dialect: Dialect) -> String {
    format!(
        "CREATE VIEW orchestratum_overview AS
SELECT c.id, c.queue, c.command_key, COALESCE(l.state, e.state) AS state, c.priority,
    COALESCE(l.attempt, e.attempt) AS attempt, c.retry_count, c.timeout_ms, c.unique_key, c.payload,
    l.run_at, l.failures, l.losses, l.cancel_requested, COALESCE(l.instance, e.instance) AS instance,
    c.created_at, e.finished_at, e.duration_ms, e.output, e.error,
    {} AS created_time, {} AS run_time, {} AS finished_time
FROM orchestratum_commands c
LEFT JOIN orchestratum_live l ON l.id = c.id
LEFT JOIN orchestratum_ended e ON e.id = c.id",
        shown_time("c.created_at", dialect),
        shown_time("l.run_at", dialect),
        shown_time("e.finished_at", dialect),
    )
}
