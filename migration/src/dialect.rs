//! The words in which the three databases write the same schema.

use sea_orm_migration::sea_orm::{ConnectionTrait, DbBackend, DbErr, Statement};

/// Whose SQL the schema is written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// SQLite.
    Sqlite,
    /// PostgreSQL.
    Postgres,
    /// MariaDB.
    MariaDb,
    /// MySQL. Untested: written after its manual.
    MySql,
}

impl Dialect {
    /// The dialect of the server behind a connection. Asks it, because MariaDB and MySQL share a driver.
    ///
    /// # Errors
    /// The server could not be asked.
    pub async fn of(connection: &impl ConnectionTrait) -> Result<Self, DbErr> {
        Ok(match connection.get_database_backend() {
            DbBackend::Postgres => Self::Postgres,
            DbBackend::MySql => {
                let statement = Statement::from_string(DbBackend::MySql, "SELECT VERSION()");
                let version = match connection.query_one_raw(statement).await? {
                    Some(row) => row.try_get_by_index::<String>(0)?,
                    None => String::new(),
                };
                if version.contains("MariaDB") { Self::MariaDb } else { Self::MySql }
            }
            _ => Self::Sqlite,
        })
    }

    /// Whether the schema is one of MariaDB and MySQL.
    pub(crate) const fn is_mysql(self) -> bool {
        matches!(self, Self::MariaDb | Self::MySql)
    }
}

/// Replaces the `{…}` of a template with the words of one database.
///
/// A template is written once, so that the three schemas cannot drift apart; what truly differs stands in this table.
pub(crate) fn render(template: &str, dialect: Dialect) -> String {
    let word = |postgres: &'static str, mysql: &'static str, sqlite: &'static str| match dialect {
        Dialect::Postgres => postgres,
        Dialect::MariaDb | Dialect::MySql => mysql,
        Dialect::Sqlite => sqlite,
    };
    let sqlite = dialect == Dialect::Sqlite;
    // Byte-wise and without padding: in a case-folding collation `welcome` equals `Welcome`, in a padding one `welcome `.
    let options = match dialect {
        Dialect::MariaDb => " ENGINE = InnoDB CHARACTER SET utf8mb4 COLLATE utf8mb4_nopad_bin",
        Dialect::MySql => " ENGINE = InnoDB CHARACTER SET utf8mb4 COLLATE utf8mb4_0900_bin",
        Dialect::Sqlite | Dialect::Postgres => "",
    };
    // SQLite would otherwise take a text for a number.
    let options = if sqlite { " STRICT" } else { options };
    // SQLite: the row lives in the tree of its primary key, instead of in a second tree beside it. Not where long
    // texts are the rule: such a tree gives a row of more than a kilobyte a page of its own.
    let narrow = if sqlite { " STRICT, WITHOUT ROWID" } else { options };
    let words = [
        ("{uuid}", word("uuid", "binary(16)", "blob")),
        // Elsewhere the type says so.
        ("{sixteen}", word("", "", " CHECK (length(id) = 16)")),
        ("{sixteen_of_command}", word("", "", " CHECK (length(command_id) = 16)")),
        ("{sixteen_of_instance}", word("", "", " CHECK (length(instance) = 16)")),
        // 191 characters of four bytes: the longest key that an index of MySQL 5.7's row format could hold, and
        // still a limit that keeps a four-column index under InnoDB's 3,072 bytes.
        ("{name}", word("varchar(191) COLLATE \"C\"", "varchar(191)", "text")),
        ("{small}", word("smallint", "smallint", "integer")),
        ("{number}", word("integer", "integer", "integer")),
        ("{large}", word("bigint", "bigint", "integer")),
        ("{flag}", word("boolean", "boolean", "integer")),
        // Microseconds: so far that two of them can be subtracted.
        ("{far}", "4000000000000000000"),
        // An attempt a second for thirty years; one more is still a number.
        ("{many}", "1000000000"),
        // JSON is kept as text: `jsonb` refuses \u0000 and reorders keys, and a payload must come back as it was given.
        ("{text}", word("text", "longtext", "text")),
        // Half-empty pages leave room for the claim's new row version beside the old one (a heap-only tuple), so that
        // a claim writes no index entry. Dead versions are frequent, so vacuum early and without pauses.
        (
            "{hot}",
            word(
                " WITH (fillfactor = 45, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0)",
                "{narrow}",
                "{narrow}",
            ),
        ),
        ("{narrow}", narrow),
        ("{options}", options),
    ];
    words.iter().fold(template.to_owned(), |text, (name, word)| text.replace(name, word))
}

/// An instant column, shown as a date and time in UTC.
pub(crate) fn shown_time(column: &str, dialect: Dialect) -> String {
    match dialect {
        Dialect::Postgres => format!("to_timestamp({column} / 1000000.0)"),
        Dialect::MariaDb | Dialect::MySql => {
            format!("timestampadd(microsecond, {column}, timestamp '1970-01-01 00:00:00.000000')")
        }
        Dialect::Sqlite => format!("strftime('%Y-%m-%d %H:%M:%f', {column} / 1000000.0, 'unixepoch')"),
    }
}
