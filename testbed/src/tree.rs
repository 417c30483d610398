//! Which processes descend from which: from `/proc`, or from `ps` where there is none.

use std::fs;
use std::process::Command;

struct Process {
    pid: u32,
    parent: u32,
    dead: bool,
}

/// All processes that descend from `root`, without `root` itself.
#[must_use]
pub fn descendants(root: u32) -> Vec<u32> {
    let all = processes();
    let mut found = vec![root];
    let mut next = 0;
    while next < found.len() {
        let parent = found[next];
        found.extend(all.iter().filter(|process| process.parent == parent).map(|process| process.pid));
        next += 1;
    }
    found.split_off(1)
}

/// Whether the process runs; one that ended and was not collected by its parent counts as gone.
#[must_use]
pub fn is_alive(pid: u32) -> bool {
    if fs::exists("/proc/self/stat").unwrap_or(false) {
        return read_stat(pid).is_some_and(|process| !process.dead);
    }
    processes().iter().any(|process| process.pid == pid && !process.dead)
}

fn processes() -> Vec<Process> {
    let from_proc: Vec<_> = fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter_map(read_stat)
        .collect();
    if from_proc.is_empty() { ask_ps() } else { from_proc }
}

fn read_stat(pid: u32) -> Option<Process> {
    parse_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// `pid (name) state parent …`, where the name may hold anything, also spaces and parentheses.
fn parse_stat(line: &str) -> Option<Process> {
    let pid = line.split(' ').next()?.parse().ok()?;
    let mut fields = line.rsplit_once(") ")?.1.split(' ');
    let dead = matches!(fields.next()?, "Z" | "X");
    let parent = fields.next()?.parse().ok()?;
    Some(Process { pid, parent, dead })
}

fn ask_ps() -> Vec<Process> {
    let Ok(output) = Command::new("ps").args(["-A", "-o", "pid=,ppid=,state="]).output() else {
        return Vec::new();
    };
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| {
            let mut fields = line.split_whitespace();
            let pid = fields.next()?.parse().ok()?;
            let parent = fields.next()?.parse().ok()?;
            Some(Process { pid, parent, dead: fields.next()?.starts_with('Z') })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_of_a_process_cannot_confuse_its_parent() {
        let process = parse_stat("42 (postgres: a) Z 7 (b) S 17 42 42 0").unwrap();
        assert_eq!((process.pid, process.parent, process.dead), (42, 17, false));
    }

    #[test]
    fn finds_children_and_forgets_them_after_their_end() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        assert!(descendants(std::process::id()).contains(&child.id()));
        assert!(is_alive(child.id()));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!is_alive(child.id()));
    }
}
