//! SQLite has no announcements, but every commit changes a file.

use std::path::PathBuf;
use std::time::SystemTime;

use crate::error::Result;
use crate::store::Store;
use crate::store::backend::Backend;
use crate::store::sql::Columns;

/// The files of a database, as the kernel shows them: to look is no statement, and waits for nobody.
#[derive(Debug)]
pub(crate) struct Files {
    paths: Vec<PathBuf>,
    seen: Vec<Option<(SystemTime, u64)>>,
    /// Changed at the last look. The kernel's clock goes in steps, so that a second commit may leave the same time
    /// behind as the one that was seen: a change counts twice.
    recently: bool,
}

impl Store {
    /// The files that a commit changes: those of SQLite, if its database is not in memory.
    pub(crate) async fn files(&self) -> Result<Files> {
        let mut paths = Vec::new();
        if self.backend == Backend::Sqlite {
            for row in self.rows(self.sql("PRAGMA database_list")).await? {
                let mut columns = Columns::after(&row, 1);
                let (name, file) = (columns.take::<String>()?, columns.take::<Option<String>>()?.unwrap_or_default());
                if name == "main" && !file.is_empty() {
                    paths.extend([format!("{file}-wal").into(), file.into()]);
                }
            }
        }
        let mut files = Files { paths, seen: Vec::new(), recently: false };
        files.seen = files.look();
        Ok(files)
    }
}

impl Files {
    /// Whether somebody has written since the last look, or this process has.
    pub(crate) fn changed(&mut self) -> bool {
        let seen = self.look();
        let changed = seen != self.seen;
        self.seen = seen;
        std::mem::replace(&mut self.recently, changed) || changed
    }

    fn look(&self) -> Vec<Option<(SystemTime, u64)>> {
        let look = |path: &PathBuf| {
            let file = std::fs::metadata(path).ok()?;
            Some((file.modified().ok()?, file.len()))
        };
        self.paths.iter().map(look).collect()
    }
}
