//! A network of its own for a process, joined to this one by a cable that can be pulled out: packets vanish, and no
//! side hears of it before its kernel gives up, as when a switch between two machines loses its power.

use std::ffi::OsString;
use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use orchestratum_testbed::process::{Farewell, Guarded, held_back};
use rustix::process::Signal;

/// A pair of virtual interfaces between a network namespace of Linux and that of the rig.
///
/// The namespace lives as long as a process in it, and this one has one that does nothing; the pair goes with it.
#[derive(Debug)]
pub(crate) struct Cable {
    holder: Guarded,
    /// The rig's end; the other one is [`THEIRS`].
    interface: String,
    /// The rig's, and that of the other end.
    addresses: [Ipv4Addr; 2],
}

const THEIRS: &str = "eth0";
/// In the new namespace; its argument is its address.
const INSIDE: &str = r#"set -e; ip link set lo up; ip address add "$1/30" dev eth0; ip link set eth0 up"#;
/// What no interface answers to.
const NOBODY: &str = "02:00:00:00:00:00";

impl Cable {
    /// Cables for so many processes; `None` where there are no namespaces to be had: not on Linux, without root, or
    /// without the programs of util-linux and iproute2.
    pub(crate) fn lay(count: usize) -> Result<Option<Vec<Self>>> {
        let can = |program: &str, arguments: &[&str]| run(Command::new(program).args(arguments)).is_ok();
        if !can("unshare", &["--net", "true"]) || !can("nsenter", &["--version"]) || !can("ip", &["-V"]) {
            return Ok(None);
        }
        (0..count).map(|_| Self::new()).collect::<Result<_>>().map(Some)
    }

    fn new() -> Result<Self> {
        // Never used again, also not by the next run of this process: a namespace goes some time after its processes.
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let (rig, number) = (std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let mut holder = held_back("unshare");
        holder.args(["--net", "sleep", "infinity"]).stdout(Stdio::null()).stderr(Stdio::null());
        let farewell = Farewell { signal: Signal::KILL, whole_group: false, remove: None };
        let mut holder = Guarded::start(holder, &farewell)?;
        let pid = holder.pid().to_string();
        let of = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/net"));
        let (ours, until) = (of("self")?, Instant::now() + Duration::from_secs(5));
        while of(&pid).is_ok_and(|its| its == ours) {
            ensure!(holder.ended()?.is_none() && Instant::now() < until, "no network namespace of its own");
            thread::sleep(Duration::from_millis(2));
        }

        let cable = Self { holder, interface: format!("oc{rig}n{number}"), addresses: addresses(rig, number) };
        let ([address, its_address], interface) = (cable.addresses, cable.interface.as_str());
        ip(&["link", "add", interface, "type", "veth", "peer", "name", THEIRS, "netns", &pid])?;
        ip(&["address", "add", &format!("{address}/30"), "dev", interface])?;
        ip(&["link", "set", interface, "up"])?;
        run(cable.inside("sh").args(["-c", INSIDE, "inside", &its_address.to_string()]))?;
        Ok(cable)
    }

    /// Where its processes find the rig.
    pub(crate) const fn address(&self) -> Ipv4Addr {
        self.addresses[0]
    }

    /// The namespace of its processes.
    pub(crate) fn namespace(&self) -> PathBuf {
        format!("/proc/{}/ns/net", self.holder.pid()).into()
    }

    /// Each end sends to a hardware address that nobody has.
    pub(crate) fn pull_out(&self) -> Result<()> {
        let [ours, theirs] = self.addresses.map(|address| address.to_string());
        let to = |address| ["neighbour", "replace", address, "lladdr", NOBODY, "nud", "permanent", "dev"];
        ip(&[&to(&theirs)[..], &[&self.interface]].concat())?;
        run(self.inside("ip").args(to(&ours)).arg(THEIRS))
    }

    /// Each end asks for the other one's address again.
    pub(crate) fn plug_in(&self) -> Result<()> {
        let [ours, theirs] = self.addresses.map(|address| address.to_string());
        ip(&["neighbour", "del", &theirs, "dev", &self.interface])?;
        run(self.inside("ip").args(["neighbour", "del", &ours, "dev", THEIRS]))
    }

    fn inside(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(flag(&self.namespace())).arg(program);
        command
    }
}

/// A command for [`Guarded::start`] that runs `program` in a namespace.
pub(crate) fn held_back_in(namespace: &Path, program: PathBuf) -> Command {
    let mut command = held_back("nsenter");
    command.arg(flag(namespace)).arg(program);
    command
}

fn flag(namespace: &Path) -> OsString {
    let mut flag = OsString::from("--net=");
    flag.push(namespace);
    flag
}

/// Of the rig's end and of the other one, in one of the 32,768 networks of four addresses in 198.18.0.0/15, which is set
/// aside for tests of networks (RFC 2544), so that it is nobody's.
fn addresses(rig: u32, number: u32) -> [Ipv4Addr; 2] {
    let network = rig.wrapping_mul(64).wrapping_add(number) % (1 << 15);
    [1, 2].map(|end| (u32::from(Ipv4Addr::new(198, 18, 0, 0)) + network * 4 + end).into())
}

fn ip(arguments: &[&str]) -> Result<()> {
    run(Command::new("ip").args(arguments))
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
        let of = |rig| (0..64).flat_map(move |number| addresses(rig, number));
        let mut all: Vec<Ipv4Addr> = of(u32::MAX).chain(of(510)).chain(of(4_000_000)).collect();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 3 * 128);
        assert!(all.iter().all(|address| address.octets()[0] == 198 && [18, 19].contains(&address.octets()[1])));
    }
}
