//! Finding the database programs, and installing them where that is possible.

use std::env;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

/// Names the backends whose absence is a failure and not a skip, separated by commas.
const REQUIRED: &str = "ORCHESTRATUM_TEST_REQUIRED";

/// Installs packages as root without letting them start the system's own service, which would only be in the way: a
/// `policy-rc.d` that answers 101 is how Debian is told.
const INSTALL: &str = r#"
set -eu
export DEBIAN_FRONTEND=noninteractive
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    trap 'rm -f "$policy"' EXIT
    trap 'exit 130' INT TERM HUP
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
fi
apt-get -o DPkg::Lock::Timeout=300 update
apt-get -o DPkg::Lock::Timeout=300 install -y --no-install-recommends "$@"
"#;

/// A kind of database server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// PostgreSQL.
    Postgres,
    /// MariaDB.
    MariaDb,
}

impl Kind {
    /// The backend's name in test names and in `ORCHESTRATUM_TEST_REQUIRED`.
    #[must_use]
    pub fn backend(self) -> &'static str {
        match self {
            Self::Postgres => "postgres",
            Self::MariaDb => "mariadb",
        }
    }

    fn package(self) -> &'static str {
        match self {
            Self::Postgres => "postgresql",
            Self::MariaDb => "mariadb-server",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Postgres => "PostgreSQL",
            Self::MariaDb => "MariaDB",
        })
    }
}

/// The programs of an installed database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Programs {
    /// The server.
    pub server: PathBuf,
    /// What makes an empty data folder.
    pub prepare: PathBuf,
    /// The command-line client.
    pub client: PathBuf,
}

/// Where servers come from on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// Programs of this machine.
    Installed(Programs),
    /// Containers, started with this `docker`.
    Docker(PathBuf),
}

/// Whether `ORCHESTRATUM_TEST_REQUIRED` names this backend, so that a test must fail where it could be skipped.
#[must_use]
pub fn required(kind: Kind) -> bool {
    env::var(REQUIRED).is_ok_and(|names| names.split(',').any(|name| name.trim() == kind.backend()))
}

/// Where this machine would take servers of this kind from, if it has them.
#[must_use]
pub fn locate(kind: Kind) -> Option<Source> {
    find(kind).map(Source::Installed).or_else(|| docker().map(Source::Docker))
}

/// Makes servers of this kind available: installed programs, else installs them with apt, else containers.
///
/// # Errors
///
/// When none of the three is possible; the message says what to install.
pub fn ensure(kind: Kind) -> Result<Source> {
    if let Some(programs) = find(kind) {
        return Ok(Source::Installed(programs));
    }
    install(kind.package())?;
    locate_or_explain(kind)
}

/// Makes libfaketime available, which shifts the clock of one process: installed, else from apt where that may install.
/// `false` where neither is the case.
///
/// # Errors
///
/// When apt may install and fails.
pub fn ensure_clock_shifter() -> Result<bool> {
    if in_path("faketime").is_none() {
        install("faketime")?;
    }
    Ok(in_path("faketime").is_some())
}

/// The library of libfaketime that shifts the clock of a program with threads, to be preloaded.
#[must_use]
pub fn clock_shifter() -> Option<PathBuf> {
    let folders = ["/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64", "/usr/lib"];
    folders.iter().map(|folder| Path::new(folder).join("faketime/libfaketimeMT.so.1")).find(|path| path.exists())
}

/// Makes what MariaDB needs for a Galera cluster available, from apt where that may install.
///
/// # Errors
///
/// When apt may install and fails.
pub fn ensure_galera() -> Result<()> {
    if crate::galera::library().is_none() {
        install("galera-4")?;
    }
    if in_path("rsync").is_none() {
        install("rsync")?;
    }
    Ok(())
}

/// Makes PgBouncer available: installed, else from apt where that may install.
///
/// # Errors
///
/// When apt may install and fails.
pub fn ensure_pooler() -> Result<()> {
    if pooler().is_none() {
        install("pgbouncer")?;
    }
    Ok(())
}

/// Makes HAProxy available: installed, else from apt where that may install.
///
/// # Errors
///
/// When apt may install and fails.
pub fn ensure_balancer() -> Result<()> {
    if balancer().is_none() {
        install("haproxy")?;
    }
    Ok(())
}

pub(crate) fn balancer() -> Option<PathBuf> {
    in_path("haproxy")
}

pub(crate) fn pooler() -> Option<PathBuf> {
    in_path("pgbouncer")
}

/// Installs a package where apt is there and may install; elsewhere does nothing.
fn install(package: &str) -> Result<()> {
    if in_path("apt-get").is_some()
        && let Some(mut root) = root_shell()
    {
        let status = root.args([INSTALL, "install", package]).stdin(Stdio::null()).status();
        let status = status.with_context(|| format!("cannot run apt-get to install {package}"))?;
        if !status.success() {
            bail!("`apt-get install {package}` failed ({status}); its output is above");
        }
    }
    Ok(())
}

pub(crate) fn locate_or_explain(kind: Kind) -> Result<Source> {
    let minimum = match kind {
        Kind::Postgres => "PostgreSQL 15 or newer (programs `postgres`, `initdb`, `psql`)",
        Kind::MariaDb => "MariaDB 10.6 or newer (programs `mariadbd`, `mariadb-install-db`, `mariadb`)",
    };
    locate(kind).with_context(|| {
        format!(
            "{kind} is not installed: install {minimum} so that its programs are in PATH, on Debian and Ubuntu with \
             `apt-get install {}`, or start a Docker engine",
            kind.package()
        )
    })
}

/// Runs a command to its end and returns what it printed.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let program = PathBuf::from(command.get_program());
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("cannot run {}", program.display()))?;
    if !output.status.success() {
        bail!("{} failed ({}): {}", program.display(), output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim_end().to_owned())
}

fn find(kind: Kind) -> Option<Programs> {
    match kind {
        Kind::Postgres => find_postgres(),
        Kind::MariaDb => Some(Programs {
            server: in_path("mariadbd")?,
            prepare: in_path("mariadb-install-db")?,
            client: in_path("mariadb")?,
        }),
    }
}

/// Distributions keep the server's programs out of PATH, several versions beside each other.
fn find_postgres() -> Option<Programs> {
    let in_path = in_path("postgres").and_then(|program| Some(program.canonicalize().ok()?.parent()?.to_owned()));
    let configured = || output(Command::new("pg_config").arg("--bindir")).ok().map(PathBuf::from);
    let versioned = || newest(Path::new("/usr/lib/postgresql"));
    let complete = |folder: &PathBuf| folder.join("postgres").is_file() && folder.join("initdb").is_file();
    let candidates = in_path.into_iter().chain(std::iter::once_with(configured).flatten());
    let folder = candidates.chain(std::iter::once_with(versioned).flatten()).find(complete)?;
    let client = folder.join("psql");
    let client = if client.is_file() { client } else { self::in_path("psql")? };
    Some(Programs { server: folder.join("postgres"), prepare: folder.join("initdb"), client })
}

/// `bin` of the subfolder with the largest number as its name.
fn newest(folder: &Path) -> Option<PathBuf> {
    let versions = folder.read_dir().ok()?.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    versions.max().map(|version| folder.join(version.to_string()).join("bin"))
}

/// Looks into PATH and into the folders of administrators, which are not in everybody's PATH.
fn in_path(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let administrators = ["/usr/sbin", "/usr/local/sbin", "/usr/libexec"].map(PathBuf::from);
    env::split_paths(&path)
        .chain(administrators)
        .map(|folder| folder.join(program))
        .find(|candidate| candidate.is_file())
}

/// `sh -c` as root, if we may: being root, or with a sudo that asks for no password.
fn root_shell() -> Option<Command> {
    if rustix::process::geteuid().is_root() {
        let mut shell = Command::new("sh");
        shell.arg("-c");
        return Some(shell);
    }
    let sudo = in_path("sudo")?;
    output(Command::new(&sudo).args(["--non-interactive", "true"])).ok()?;
    let mut shell = Command::new(sudo);
    shell.args(["--non-interactive", "sh", "-c"]);
    Some(shell)
}

/// The `docker` command, if its engine runs.
fn docker() -> Option<PathBuf> {
    let docker = in_path("docker")?;
    output(Command::new(&docker).arg("info")).ok()?;
    Some(docker)
}
