//! Two settings of the machine that decide the slowest hundredth of a load: when the kernel writes what it has been
//! given, and whether a virtual machine gives freed memory back to its host.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};

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

const REPORTING: &str = "/sys/module/page_reporting/parameters/page_reporting_order";
/// The least size of what is given back, as a power of two of pages: more than there is where the kernel takes it, else
/// the largest there is.
const NEVER: [&str; 2] = ["11", "10"];
/// Left to the programs that run when memory is taken.
const SPARED_KIB: u64 = 1 << 20;
const TAKEN_AT_ONCE: usize = 64 << 20;

/// A virtual machine keeps the memory it frees until the value is dropped.
///
/// A page that has been given back is fetched from the host when it is next written, in the midst of whatever writes
/// it: a file that grows, the cache of a database.
#[derive(Debug)]
pub(crate) struct KeepsMemory {
    before: String,
}

impl KeepsMemory {
    /// Fetches what is free now, once, and keeps it; `None` where nothing is ever given back.
    pub(crate) fn begin() -> Result<Option<Self>> {
        let Ok(before) = fs::read_to_string(REPORTING) else { return Ok(None) };
        NEVER
            .iter()
            .find(|order| set(REPORTING, order).is_ok())
            .with_context(|| format!("cannot write {REPORTING}: only root can"))?;
        let kept = Self { before: before.trim().to_owned() };
        let mut taken = Vec::new();
        while free_kib()? > SPARED_KIB {
            taken.push(std::hint::black_box(vec![1_u8; TAKEN_AT_ONCE]));
        }
        Ok(Some(kept))
    }
}

impl Drop for KeepsMemory {
    fn drop(&mut self) {
        if let Err(error) = set(REPORTING, &self.before) {
            println!("{REPORTING} stays changed: {error:#}");
        }
    }
}

fn free_kib() -> Result<u64> {
    let text = fs::read_to_string("/proc/meminfo")?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemFree:")).context("no MemFree in /proc/meminfo")?;
    Ok(line.trim().trim_end_matches("kB").trim_end().parse()?)
}

fn set(file: &str, value: &str) -> Result<()> {
    Ok(fs::write(Path::new(file), value)?)
}
