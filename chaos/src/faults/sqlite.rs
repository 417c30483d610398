//! What happens to a file that several processes share.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use sea_orm::{ConnectOptions, ConnectionTrait as _, DatabaseConnection};

use super::Storm;

pub(crate) async fn rage(mut storm: Storm, url: &str, file: &Path) -> Result<()> {
    let mut copies = 0;
    while storm.lull(storm.between(Duration::from_secs(4))).await {
        let time = storm.millis(500..4_000);
        match storm.random.u8(..3) {
            0 => {
                storm.note("another program wrote for long");
                if let Err(error) = hold(url, "BEGIN IMMEDIATE", time).await {
                    // The workers are busy writers themselves.
                    ensure!(error.to_string().contains("locked"), error);
                }
            }
            1 => {
                storm.note("another program read for long, and the log grew");
                hold(url, "BEGIN; SELECT count(*) FROM orchestratum_live", time * 2).await?;
            }
            _ => {
                storm.note("the file was copied");
                copies += 1;
                let copy = file.with_extension(format!("copy-{copies}"));
                copy_opens_clean(url, &copy).await?;
                std::fs::remove_file(copy)?;
            }
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
