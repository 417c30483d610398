//! A file system that is small enough to be filled.

use std::fs::{self, File, Permissions};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use tempfile::TempDir;

/// Memory, mounted as a disk; gone when dropped.
#[derive(Debug)]
pub(crate) struct SmallDisk {
    folder: TempDir,
}

/// Enough for a server and the commands of a long run.
const SIZE: &str = "size=3g,mode=755";

impl SmallDisk {
    /// # Errors
    ///
    /// Without the permission to mount.
    pub(crate) fn mount() -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("orchestratum-disk-").tempdir()?;
        fs::set_permissions(folder.path(), Permissions::from_mode(0o755))?;
        let mount = Command::new("mount").args(["-t", "tmpfs", "-o", SIZE, "orchestratum"]).arg(folder.path()).status();
        ensure!(mount.context("cannot run mount")?.success(), "cannot mount a small disk; it takes root");
        Ok(Self { folder })
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Leaves not a page free.
    pub(crate) fn fill(&self) -> Result<()> {
        let mut ballast = File::create(self.folder.path().join("ballast"))?;
        for size in [1 << 20, 4 << 10] {
            let zeros = vec![0; size];
            while ballast.write_all(&zeros).is_ok() {}
        }
        Ok(())
    }

    pub(crate) fn free(&self) -> Result<()> {
        Ok(fs::remove_file(self.folder.path().join("ballast"))?)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(self.folder.path()).status();
    }
}
