//! When the kernel writes what it has been given: a setting of the machine that decides the slowest hundredth of a load.

use std::fs;
use std::path::Path;

use anyhow::Result;

const BYTES: &str = "/proc/sys/vm/dirty_background_bytes";
const RATIO: &str = "/proc/sys/vm/dirty_background_ratio";
/// The kernel begins to write when so much has gathered.
const EARLY: &str = "16777216";

/// The kernel writes early until the value is dropped.
#[derive(Debug)]
pub(crate) struct WritesEarly {
    /// The file and the value to put back: whichever of the two settings is in force, the other one reads zero.
    before: (&'static str, String),
}

impl WritesEarly {
    /// `None` where the setting is not ours to change.
    pub(crate) fn begin() -> Option<Self> {
        let read = |file: &'static str| fs::read_to_string(file).map(|value| (file, value.trim().to_owned()));
        let bytes = read(BYTES).ok()?;
        let before = if bytes.1 == "0" { read(RATIO).ok()? } else { bytes };
        set(BYTES, EARLY).ok()?;
        Some(Self { before })
    }
}

impl Drop for WritesEarly {
    fn drop(&mut self) {
        if let Err(error) = set(self.before.0, &self.before.1) {
            println!("{} stays changed: {error:#}", self.before.0);
        }
    }
}

fn set(file: &str, value: &str) -> Result<()> {
    Ok(fs::write(Path::new(file), value)?)
}
