//! The words in which the three databases write the same schema.

use sea_orm_migration::sea_orm::DbBackend;

/// Replaces the `{…}` of a template with the words of one database.
///
/// A template is written once, so that the three schemas cannot drift apart; what truly differs stands in this table.
pub(crate) fn render(template: &str, backend: DbBackend) -> String {
    let word = |postgres: &'static str, mysql: &'static str, sqlite: &'static str| match backend {
        DbBackend::Postgres => postgres,
        DbBackend::MySql => mysql,
        _ => sqlite,
    };
    let words = [
        ("{uuid}", word("uuid", "binary(16)", "uuid_text")),
        // 191 characters of four bytes: the longest key that an index of MySQL 5.7's row format could hold, and
        // still a limit that keeps a four-column index under InnoDB's 3,072 bytes.
        ("{name}", word("varchar(191) COLLATE \"C\"", "varchar(191)", "varchar(191)")),
        // JSON is kept as text: `jsonb` refuses \u0000 and reorders keys, and a payload must come back as it was given.
        ("{text}", word("text", "longtext", "text")),
        // Half-empty pages leave room for the claim's new row version beside the old one (a heap-only tuple), so that
        // a claim writes no index entry. Dead versions are frequent, so vacuum early and without pauses.
        (
            "{hot}",
            word(
                " WITH (fillfactor = 45, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0)",
                "{options}",
                "",
            ),
        ),
        // Byte-wise comparison without padding: in a case-folding collation `welcome` equals `Welcome `.
        ("{options}", word("", " ENGINE = InnoDB CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin", "")),
    ];
    words.iter().fold(template.to_owned(), |text, (name, word)| text.replace(name, word))
}

/// An instant column, shown as a date and time in UTC.
pub(crate) fn shown_time(column: &str, backend: DbBackend) -> String {
    match backend {
        DbBackend::Postgres => format!("to_timestamp({column} / 1000000.0)"),
        DbBackend::MySql => {
            format!("timestampadd(microsecond, {column}, timestamp '1970-01-01 00:00:00.000000')")
        }
        _ => format!("strftime('%Y-%m-%d %H:%M:%f', {column} / 1000000.0, 'unixepoch')"),
    }
}
