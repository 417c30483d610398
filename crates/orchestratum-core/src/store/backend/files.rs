//! SQLite has no announcements, but every commit changes a file.

use std::path::PathBuf;
use std::time::SystemTime;

use crate::error::Result;
use crate::store::Store;
use crate::store::backend::Backend;
use crate::store::sql::Columns;

/// How many looks after a change it is told of for the last time.
const LAST: u32 = 64;

/// The files of a database, as the kernel shows them: to look is no statement, and waits for nobody.
#[derive(Debug)]
pub(crate) struct Files {
    paths: Vec<PathBuf>,
    seen: Vec<Option<(SystemTime, u64)>>,
    /// Looks since the last change that was seen. A commit is written, then synced, which may take long, and only then
    /// to be seen by others; and the kernel's clock goes in steps, so that a second commit may leave the same time
    /// behind. So a change is told of again after 1, 2, 4, … looks.
    looks_since: u32,
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
        let mut files = Files { paths, seen: Vec::new(), looks_since: u32::MAX };
        files.seen = files.look();
        Ok(files)
    }
}

impl Files {
    /// Whether somebody has written, perhaps this process, since the last look, or so lately that it may only now be to
    /// be seen.
    pub(crate) fn changed(&mut self) -> bool {
        let seen = self.look();
        if seen != self.seen {
            self.seen = seen;
            self.looks_since = 0;
            return true;
        }
        self.looks_since = self.looks_since.saturating_add(1);
        self.looks_since.is_power_of_two() && self.looks_since <= LAST
    }

    /// Asks for no more than this: to open and close a file of SQLite would take the locks of the whole process off it.
    fn look(&self) -> Vec<Option<(SystemTime, u64)>> {
        let look = |path: &PathBuf| {
            let file = std::fs::metadata(path).ok()?;
            Some((file.modified().ok()?, file.len()))
        };
        self.paths.iter().map(look).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(files: &mut Files, looks: u32) -> Vec<u32> {
        (1..=looks).filter(|_| files.changed()).collect()
    }

    /// Others see a commit after its sync, when nothing changes any more.
    #[test]
    fn a_change_is_told_of_again_more_and_more_seldom() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("app.db-wal");
        let mut files = Files { paths: vec![log.clone()], seen: vec![None], looks_since: u32::MAX };
        assert_eq!(told(&mut files, 10), [0; 0]);
        std::fs::write(&log, "commit").unwrap();
        assert!(files.changed());
        assert_eq!(told(&mut files, 200), [1, 2, 4, 8, 16, 32, 64]);
        std::fs::write(&log, "another commit").unwrap();
        assert!(files.changed());
        assert_eq!(told(&mut files, 3), [1, 2]);
    }
}
