//! What happens to a file that several processes share.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use sea_orm::{ConnectOptions, ConnectionTrait as _, DatabaseConnection};

use super::{Deck, Storm};

/// As the ledger has it. It takes root, and a file system that knows of files which nobody may change.
pub(crate) const READ_ONLY: &str = "file that could only be read by who opened it then";
/// As the ledger has them.
pub(crate) const KINDS: [&str; 4] = [
    "long write of another program",
    "long read of another program, while the log grows",
    "copy of the file",
    READ_ONLY,
];

pub(crate) async fn rage(mut storm: Storm, url: &str, file: &Path) -> Result<()> {
    let (mut copies, mut deck) = (0, Deck::new(&KINDS));
    while storm.lull(storm.between(Duration::from_secs(4))).await {
        let (fault, name) = deck.draw(&mut storm.random);
        let time = storm.some_time();
        let happened = match fault {
            0 => hold(url, "BEGIN IMMEDIATE; INSERT INTO chaos_orders VALUES (-1)", time).await,
            1 => hold(url, "BEGIN; SELECT count(*) FROM orchestratum_live", time * 2).await,
            2 => {
                copies += 1;
                let copy = file.with_extension(format!("copy-{copies}"));
                copy_opens_clean(url, &copy).await?;
                Ok(std::fs::remove_file(copy)?)
            }
            _ => match ReadOnly::begin(file) {
                Some(_until_then) => {
                    tokio::time::sleep(time).await;
                    Ok(())
                }
                None => continue,
            },
        };
        storm.note_if(name, &happened);
        if let Err(error) = happened {
            // The workers are busy writers themselves.
            ensure!(error.to_string().contains("locked"), error);
        }
    }
    Ok(())
}

async fn connect(url: &str) -> Result<DatabaseConnection> {
    let mut options = ConnectOptions::new(url);
    options.max_connections(1).sqlx_logging(false);
    Ok(sea_orm::Database::connect(options).await?)
}

async fn hold(url: &str, sql: &str, time: Duration) -> Result<()> {
    let connection = connect(url).await?;
    connection.execute_unprepared(sql).await?;
    tokio::time::sleep(time).await;
    connection.execute_unprepared("ROLLBACK").await?;
    Ok(())
}

/// A file that nobody can open for writing until the value is dropped; who has it open goes on.
struct ReadOnly<'a>(&'a Path);

impl<'a> ReadOnly<'a> {
    fn begin(file: &'a Path) -> Option<Self> {
        change(file, "+i").then(|| Self(file))
    }
}

impl Drop for ReadOnly<'_> {
    fn drop(&mut self) {
        if !change(self.0, "-i") {
            println!("{} stays read-only", self.0.display());
        }
    }
}

fn change(file: &Path, attribute: &str) -> bool {
    let changed = Command::new("chattr").arg(attribute).arg(file).stderr(Stdio::null()).status();
    changed.is_ok_and(|status| status.success())
}

/// Whether [`READ_ONLY`] can happen to the file.
pub(crate) fn can_be_read_only(file: &Path) -> bool {
    ReadOnly::begin(file).is_some()
}

/// It is sound, and each of its commands is in one of two tables.
async fn copy_opens_clean(url: &str, copy: &Path) -> Result<()> {
    connect(url).await?.execute_unprepared(&format!("VACUUM INTO '{}'", copy.display())).await?;
    let copied = connect(&format!("sqlite://{}", copy.display())).await?;
    let damage = damage(&copied).await?;
    ensure!(damage.is_none(), "a copy is damaged: {}", damage.unwrap_or_default());
    copied.close().await?;
    Ok(())
}

/// What is wrong with the file, now that all is over.
pub(crate) async fn wrong_with(url: &str) -> Result<Option<String>> {
    damage(&connect(url).await?).await
}

async fn damage(connection: &DatabaseConnection) -> Result<Option<String>> {
    let astray = "SELECT CAST(count(*) AS text) FROM orchestratum_commands AS c \
        WHERE (SELECT count(*) FROM orchestratum_live AS l WHERE l.id = c.id) \
        + (SELECT count(*) FROM orchestratum_ended AS e WHERE e.id = c.id) <> 1";
    for (sql, wanted) in [("PRAGMA integrity_check", "ok"), (astray, "0")] {
        let statement = sea_orm::Statement::from_string(connection.get_database_backend(), sql);
        let row = connection.query_one_raw(statement).await?.with_context(|| format!("no answer to {sql}"))?;
        let answer: String = row.try_get_by_index(0)?;
        if answer != wanted {
            return Ok(Some(format!("{answer} is the answer to {sql}")));
        }
    }
    Ok(None)
}
