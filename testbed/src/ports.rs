//! Free loopback ports that stay free while their server is down.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::ops::Range;

use anyhow::{Result, bail};

/// A loopback port that no other testbed on this machine takes while the value lives.
///
/// Asking the system for *any* free port is not enough: it answers with one that the next outgoing connection may get
/// while our server is being restarted. So the number comes from below the range of outgoing connections, and is
/// claimed among testbeds by a name that the kernel frees with our process.
#[derive(Debug)]
pub struct Port {
    number: u16,
    _claim: Claim,
}

impl Port {
    /// Picks a free port and claims it.
    ///
    /// # Errors
    ///
    /// When no free port is found.
    pub fn reserve() -> Result<Self> {
        let range = quiet_range();
        for _ in 0..1000 {
            let number = fastrand::u16(range.clone());
            if let Some(claim) = claim(number)
                && TcpListener::bind((Ipv4Addr::LOCALHOST, number)).is_ok()
            {
                return Ok(Self { number, _claim: claim });
            }
        }
        bail!("no free port on 127.0.0.1 between {} and {}", range.start, range.end);
    }

    /// The number.
    #[must_use]
    pub fn number(&self) -> u16 {
        self.number
    }
}

/// Ports that the system does not hand out to outgoing connections.
fn quiet_range() -> Range<u16> {
    let outgoing = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").ok();
    let lowest = outgoing.and_then(|range| range.split_whitespace().next()?.parse().ok()).unwrap_or(32_768);
    if lowest > 12_000 { 10_000..lowest } else { 20_000..60_000 }
}

#[cfg(target_os = "linux")]
type Claim = std::os::unix::net::UnixListener;

/// An abstract socket name: it lives in the network namespace, as the port does, and leaves no file behind.
#[cfg(target_os = "linux")]
fn claim(number: u16) -> Option<Claim> {
    use std::os::linux::net::SocketAddrExt as _;
    let name = format!("orchestratum-testbed/port/{number}");
    let address = std::os::unix::net::SocketAddr::from_abstract_name(name).ok()?;
    Claim::bind_addr(&address).ok()
}

#[cfg(not(target_os = "linux"))]
type Claim = ();

#[cfg(not(target_os = "linux"))]
#[allow(clippy::unnecessary_wraps, reason = "Linux can refuse")]
fn claim(_number: u16) -> Option<Claim> {
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn port_is_not_given_twice_while_its_server_is_down() {
        let ports: Vec<_> = (0..50).map(|_| Port::reserve().unwrap()).collect();
        let mut numbers: Vec<_> = ports.iter().map(Port::number).collect();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), ports.len());
        #[cfg(target_os = "linux")]
        assert!(claim(numbers[0]).is_none());
    }
}
