//! What happens to a file that several processes share.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use sea_orm::{ConnectOptions, ConnectionTrait as _, DatabaseConnection};

use super::{Deck, Storm};

/// As the ledger has them.
pub(crate) const KINDS: [&str; 3] =
    ["long write of another program", "long read of another program, while the log grows", "copy of the file"];

pub(crate) async fn rage(mut storm: Storm, url: &str, file: &Path) -> Result<()> {
    let (mut copies, mut deck) = (0, Deck::new(&KINDS));
    while storm.lull(storm.between(Duration::from_secs(4))).await {
        let (fault, name) = deck.draw(&mut storm.random);
        let time = storm.some_time();
        let happened = match fault {
            0 => hold(url, "BEGIN IMMEDIATE", time).await,
            1 => hold(url, "BEGIN; SELECT count(*) FROM orchestratum_live", time * 2).await,
            _ => {
                copies += 1;
                let copy = file.with_extension(format!("copy-{copies}"));
                copy_opens_clean(url, &copy).await?;
                Ok(std::fs::remove_file(copy)?)
            }
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

async fn copy_opens_clean(url: &str, copy: &Path) -> Result<()> {
    connect(url).await?.execute_unprepared(&format!("VACUUM INTO '{}'", copy.display())).await?;
    let copied = connect(&format!("sqlite://{}", copy.display())).await?;
    let statement = sea_orm::Statement::from_string(copied.get_database_backend(), "PRAGMA integrity_check");
    let row = copied.query_one_raw(statement).await?.context("no answer of the integrity check")?;
    let verdict: String = row.try_get_by_index(0)?;
    ensure!(verdict == "ok", "a copy is damaged: {verdict}");
    copied.close().await?;
    Ok(())
}
