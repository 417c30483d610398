//! A network of its own for a process, joined to this one by a cable that can be pulled out: packets vanish, and no
//! side hears of it before its kernel gives up, as when a machine or a switch between two loses its power.

use std::ffi::OsString;
use std::fs;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use orchestratum_testbed::process::{Farewell, Guarded, held_back};
use rustix::process::{Signal, geteuid};

/// A pair of virtual interfaces between a network namespace of Linux and that of the rig.
///
/// The namespace lives as long as a process in it, and this one has one that does nothing; the pair goes with it.
#[derive(Debug)]
pub(crate) struct Cable {
    holder: Guarded,
    /// The rig's end.
    interface: String,
    address: Ipv4Addr,
}

/// In the new namespace; its arguments are its address and the width of the mask.
const INSIDE: &str = r#"set -e; ip link set lo up; ip address add "$1" dev eth0; ip link set eth0 up"#;

impl Cable {
    /// Cables for so many processes; `None` where they cannot be had: not on Linux, without root, or without the
    /// programs of util-linux and iproute2.
    pub(crate) fn lay(count: usize) -> Option<Vec<Self>> {
        if !geteuid().is_root() {
            return None;
        }
        (0..count).map(Self::new).collect::<Result<_>>().ok()
    }

    fn new(number: usize) -> Result<Self> {
        let mut holder = held_back("unshare");
        holder.args(["--net", "sleep", "infinity"]).stdout(Stdio::null()).stderr(Stdio::null());
        let farewell = Farewell { signal: Signal::KILL, whole_group: false, remove: None };
        let mut holder = Guarded::start(holder, &farewell)?;
        let pid = holder.pid();
        let of = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/net"));
        let (ours, until) = (of("self")?, Instant::now() + Duration::from_secs(5));
        while of(&pid.to_string()).is_ok_and(|its| its == ours) {
            ensure!(holder.ended()?.is_none() && Instant::now() < until, "no network namespace of its own");
            thread::sleep(Duration::from_millis(2));
        }

        let rig = std::process::id();
        let (interface, [address, its_address]) = (format!("oc{rig}n{number}"), addresses(rig, u8::try_from(number)?)?);
        let cable = Self { holder, interface, address };
        run(Command::new("ip").args(["link", "add", &cable.interface, "type", "veth"]).args([
            "peer",
            "name",
            "eth0",
            "netns",
            &pid.to_string(),
        ]))?;
        run(Command::new("ip").args(["address", "add", &format!("{address}/30"), "dev", &cable.interface]))?;
        let mut inside = Command::new("nsenter");
        inside.arg(cable.flag()).args(["sh", "-c", INSIDE, "inside", &format!("{its_address}/30")]);
        run(&mut inside)?;
        cable.plug_in()?;
        Ok(cable)
    }

    /// Where its processes find the rig.
    pub(crate) const fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// The namespace of its processes.
    pub(crate) fn namespace(&self) -> PathBuf {
        format!("/proc/{}/ns/net", self.holder.pid()).into()
    }

    fn flag(&self) -> OsString {
        flag(&self.namespace())
    }

    pub(crate) fn pull_out(&self) -> Result<()> {
        run(Command::new("ip").args(["link", "set", &self.interface, "down"]))
    }

    pub(crate) fn plug_in(&self) -> Result<()> {
        run(Command::new("ip").args(["link", "set", &self.interface, "up"]))
    }
}

/// A command for [`Guarded::start`] that runs `program` in a namespace.
pub(crate) fn held_back_in(namespace: &std::path::Path, program: PathBuf) -> Command {
    let mut command = held_back("nsenter");
    command.arg(flag(namespace)).arg(program);
    command
}

fn flag(namespace: &std::path::Path) -> OsString {
    let mut flag = OsString::from("--net=");
    flag.push(namespace);
    flag
}

/// Of the rig's end and of the other one, from 198.18.0.0/15, which is set aside for tests of networks (RFC 2544), so
/// that it is nobody's: 512 blocks, by the rig's process id, of 64 networks of four addresses.
fn addresses(rig: u32, number: u8) -> Result<[Ipv4Addr; 2]> {
    ensure!(number < 64, "no more than 64 processes have addresses");
    let [_, _, high, low] = (rig % 512).to_be_bytes();
    Ok([1, 2].map(|end| Ipv4Addr::new(198, 18 + high, low, number * 4 + end)))
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("cannot run {command:?}"))?;
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_ends_have_the_same_address() {
        let of = |rig| (0..64).flat_map(move |number| addresses(rig, number).unwrap());
        let mut all: Vec<Ipv4Addr> = of(4_000_000).chain(of(4_000_001)).collect();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 256);
        assert!(all.iter().all(|address| address.octets()[0] == 198 && [18, 19].contains(&address.octets()[1])));
        assert!(addresses(1, 64).is_err());
    }
}
