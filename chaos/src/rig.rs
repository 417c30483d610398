//! One run: a database, a fleet, a storm, a calm, a verdict.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use clap::ValueEnum;
use fastrand::Rng;
use orchestratum_testbed::install;
use tokio::sync::{Mutex, oneshot};
use tokio::time::Instant;

use crate::aftermath;
use crate::cable::Cable;
use crate::check::{self, Report, tried};
use crate::crowd::{self, Counts};
use crate::database::{Database, DatabaseKind};
use crate::disk::SmallDisk;
use crate::faults::{self, Storm};
use crate::fleet::{self, Door, Fleet, Plan};
use crate::ledger::{self, Ledger};
use crate::picture;
use crate::proxy::Wires;
use crate::soak;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// What goes wrong; everything if not named.
    #[arg(value_enum, default_value = "all")]
    what: What,
    /// The database; all three if not named.
    #[arg(long, value_enum)]
    database: Vec<DatabaseKind>,
    /// How long things go wrong.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Repeats the faults of another run; drawn if not named.
    #[arg(long)]
    seed: Option<u64>,
    /// Commands appended in a second: 2500 if not named, 4000 in a soak.
    #[arg(long)]
    rate: Option<u32>,
    /// Worker processes, 4 if not named, 50 in a fleet; half as many producers, 2 in a fleet.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    workers: Option<u32>,
    #[arg(long, default_value_t = 5_000)]
    lease_ms: u64,
    /// Lets the processes need no state of a session, as behind a pooler.
    #[arg(long)]
    poll_only: bool,
    /// Where to write the reports, one JSON object a line.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Where to draw the curves of a soak on one database.
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum What {
    /// Processes that die, stop, pause, get no memory and have wrong clocks.
    Workers,
    /// A server that dies, restarts, stalls, crawls; sessions that are in the way; on SQLite other programs on the file.
    Database,
    /// Connections that are cut, go dead, stall and crawl; with root on Linux cables that are pulled out, too.
    Network,
    /// The primary of a PostgreSQL with a synchronous standby is lost again and again, and the standby promoted.
    Failover,
    /// One node of a MariaDB Galera cluster of three after the other dies, or is cut off from the others, and comes back;
    /// processes on one of them.
    Galera,
    /// A disk that is full for a while, again and again, under the database; it takes root.
    Disk,
    /// Nothing goes wrong, but there are fifty workers on one PostgreSQL.
    Fleet,
    /// Everything that `all` has, twenty times rarer, under a steady stream and with ended commands removed: whether
    /// memory, tables or waits grow. An hour is a good time.
    Soak,
    /// Workers, database and network together.
    All,
}

/// In so many seconds every part of a storm has come at least once.
const LONG_ENOUGH: u64 = 60;
/// In so many, each kind of fault of a server and of the network.
const LONG_ENOUGH_FOR_ALL: u64 = 180;
/// Commands a second below which a run shows nothing.
const LEAST: u64 = 50;
/// In so many seconds...
const LONG_ENOUGH_FOR_MANY: u64 = 300;
/// ...everything together has come so often, in a longer run more often accordingly.
const MANY_COMMANDS: u64 = 100_000;
const MANY: [(&str, u64); 2] = [(fleet::KILL, 100), (ledger::PAUSE, 10)];
const MANY_OF_A_SERVER: (&str, u64) = (faults::database::KILL, 10);
const MANY_PROMOTIONS: (&str, u64) = (faults::failover::PROMOTION, 10);
/// A node takes half a minute to come back, and one time in three it was only cut off.
const MANY_NODES: (&str, u64) = (faults::galera::NODE, 5);

/// Runs on each database; `false` when a guarantee was broken.
pub(crate) async fn run(arguments: &Arguments) -> Result<bool> {
    let kinds =
        if arguments.database.is_empty() { DatabaseKind::value_variants() } else { arguments.database.as_slice() };
    let seed = arguments.seed.unwrap_or_else(|| fastrand::u64(..1_000_000));
    let mut reports: Vec<Report> = Vec::new();
    for kind in kinds {
        let is_possible = match arguments.what {
            What::Network => *kind != DatabaseKind::Sqlite,
            What::Failover | What::Fleet => *kind == DatabaseKind::Postgres,
            What::Galera => *kind == DatabaseKind::Mariadb,
            What::Workers | What::Database | What::Disk | What::Soak | What::All => true,
        };
        if !is_possible {
            continue;
        }
        let name = kind.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default();
        println!("{name}: {} s of trouble, seed {seed}", arguments.seconds);
        let folder = tempfile::Builder::new().prefix("orchestratum-ledgers-").tempdir()?;
        let report = Box::pin(on(*kind, name, seed, arguments, folder.path())).await;
        if report.as_ref().map_or(true, |report| !report.violations.is_empty()) {
            println!("the ledgers and logs are kept in {}", folder.keep().display());
        }
        let mut report = report?;
        report.again = again(*kind, seed, arguments);
        println!("{report}");
        reports.push(report);
        // Each time, for the next database may get no report.
        if let Some(path) = &arguments.json {
            let lines = reports.iter().map(serde_json::to_string).collect::<Result<Vec<_>, _>>()?;
            std::fs::write(path, lines.join("\n") + "\n")
                .with_context(|| format!("cannot write {}", path.display()))?;
        }
    }
    ensure!(!reports.is_empty(), "none of these databases knows this kind of trouble");
    Ok(reports.iter().all(|report| report.violations.is_empty()))
}

/// The command that repeats a run on one database.
fn again(kind: DatabaseKind, seed: u64, arguments: &Arguments) -> String {
    let name =
        |value: Option<clap::builder::PossibleValue>| value.map_or_else(String::new, |v| v.get_name().to_owned());
    let (what, database) = (name(arguments.what.to_possible_value()), name(kind.to_possible_value()));
    let Arguments { seconds, lease_ms, .. } = arguments;
    let mut command = format!("cargo xtask chaos {what} --database {database} --seconds {seconds} --seed {seed}");
    for (option, value) in [("rate", arguments.rate), ("workers", arguments.workers)] {
        command.extend(value.map(|value| format!(" --{option} {value}")));
    }
    command.push_str(&format!(" --lease-ms {lease_ms}"));
    command.push_str(if arguments.poll_only { " --poll-only" } else { "" });
    command
}

async fn on(kind: DatabaseKind, name: String, seed: u64, arguments: &Arguments, folder: &Path) -> Result<Report> {
    let ledger = Ledger::create(folder, "rig")?;
    let disk = if arguments.what == What::Disk { Some(SmallDisk::mount()?) } else { None };
    let mut database = match arguments.what {
        What::Failover => Database::start_pair().await?,
        What::Galera => Database::start_cluster().await?,
        What::Fleet => Database::start_large().await?,
        _ => Database::start(kind, disk.as_ref().map(SmallDisk::path)).await?,
    };
    let url = database.url();
    let mut random = Rng::with_seed(seed);
    let (is_fleet, is_soak) = (arguments.what == What::Fleet, arguments.what == What::Soak);
    let of = |what: What| arguments.what == what || matches!(arguments.what, What::All | What::Soak);
    let workers = arguments.workers.unwrap_or(if is_fleet { 50 } else { 4 });
    let producers = if is_fleet { 2 } else { workers.div_ceil(2) };
    let processes = usize::try_from(workers + producers)?;
    // Who has no server has a file, and no wire to it.
    let is_networked = of(What::Network) && kind != DatabaseKind::Sqlite;
    let cables = if is_networked { Cable::lay(processes)? } else { None };
    let has_cables = cables.is_some();
    if is_networked && !has_cables {
        println!("no networks of their own for the processes (it takes root on Linux): no cable is pulled out");
    }
    let (wires, doors) = match database.port() {
        None => (None, vec![Door { url: url.clone(), namespace: None }; processes]),
        Some(port) => {
            let cables = cables.map_or_else(
                || (0..processes).map(|_| None).collect(),
                |cables| cables.into_iter().map(Some).collect(),
            );
            let wires = Wires::start(port, cables).await?;
            let mut doors = Vec::new();
            for wire in wires.all() {
                let through = url.replace(&format!("@127.0.0.1:{port}/"), &format!("@{}/", wire.address()));
                ensure!(through != url, "{url} does not lead through a wire");
                doors.push(Door { url: through, namespace: wire.namespace() });
            }
            (Some(wires), doors)
        }
    };
    let wire = doors[0].url.clone();
    let plan = Plan {
        doors,
        folder: folder.to_owned(),
        lease: Duration::from_millis(arguments.lease_ms),
        workers,
        producers,
        rate: if is_soak { soak::MIXTURE } else { arguments.rate.unwrap_or(2_500) },
        stream: if is_soak { arguments.rate.unwrap_or(4_000).saturating_sub(soak::MIXTURE) } else { 0 },
        keep: is_soak.then_some(soak::KEEP),
        clocks: of(What::Workers) && kind != DatabaseKind::Sqlite,
        // One lives long enough to have old connections and doubts.
        spares_one: arguments.what != What::Workers && !is_fleet,
        poll_only: arguments.poll_only,
        seed,
    };
    if plan.clocks {
        install::ensure_clock_shifter()?;
    }
    let fleet = Arc::new(Mutex::new(Fleet::start(plan.clone(), ledger.clone(), random.fork())?));

    if is_soak && arguments.seconds < soak::LONG {
        println!("shorter than {} s: whether anything grows is not judged", soak::LONG);
    }
    let until = Instant::now() + Duration::from_secs(arguments.seconds);
    let pace = if is_soak { soak::PACE } else { 1 };
    let lease = plan.lease;
    let mut storm = || Storm { until, ledger: ledger.clone(), random: random.fork(), pace, lease };
    // In a task of its own: while a server starts the others wait, and who has died must be written down at once. Also
    // until the last of the other faults is over.
    let (over, is_over) = oneshot::channel::<()>();
    let are_attacked = attacks_workers(arguments.what);
    let (workers, rest) = (storm(), Storm { until: never(), ..storm() });
    let attacked = Arc::clone(&fleet);
    let workers = tokio::spawn(async move {
        if are_attacked {
            faults::workers::rage(workers, &attacked).await?;
        }
        tokio::select! {
            _ = is_over => Ok(()),
            ended = faults::workers::calm(rest, &attacked) => ended,
        }
    });
    let network = storm();
    let network = async {
        match &wires {
            Some(wires) if of(What::Network) => faults::network::rage(network, wires).await,
            _ => Ok(()),
        }
    };
    let server = storm();
    let file = database.file();
    let can_be_read_only = kind == DatabaseKind::Sqlite && faults::sqlite::can_be_read_only(&file);
    if kind == DatabaseKind::Sqlite && of(What::Database) && !can_be_read_only {
        println!("no file here that nobody may write to (it takes root and `chattr`): that is left out");
    }
    let server = async {
        match (&mut database, &wires, &disk) {
            (Database::Sqlite(_), _, Some(disk)) => faults::disk::rage(server, disk).await,
            (Database::Postgres(postgres), _, Some(disk)) => faults::disk::rage_below(server, disk, postgres).await,
            (Database::MariaDb(mariadb), _, Some(disk)) => faults::disk::rage_below(server, disk, mariadb).await,
            (Database::Pair(pair), ..) => faults::failover::rage(server, pair).await,
            (Database::Galera(cluster), Some(wires), _) => faults::galera::rage(server, cluster, wires).await,
            (Database::Sqlite(_), ..) if of(What::Database) => faults::sqlite::rage(server, &url, &file).await,
            (Database::Postgres(postgres), ..) if of(What::Database) => {
                faults::database::rage(server, postgres, &url).await
            }
            (Database::MariaDb(mariadb), ..) if of(What::Database) => {
                faults::database::rage(server, mariadb, &url).await
            }
            _ => Ok(()),
        }
    };
    let watch = storm();
    let watch = async { if is_fleet { crowd::most_connections(watch, &url).await } else { Ok(0) } };
    let (soaked, fleet_of_soak) = (storm(), Arc::clone(&fleet));
    let soaked =
        async { if is_soak { soak::watch(soaked, kind, &url, &file, &fleet_of_soak).await } else { Ok(Vec::new()) } };
    let ((), (), most_connections, samples) = tokio::try_join!(network, server, watch, soaked)?;
    drop(over);
    workers.await??;
    drop(fleet_of_soak);

    let fleet = Arc::into_inner(fleet).context("the faults are over")?;
    let mut unwell = aftermath::all_go_on(&fleet).await?;
    // Those that have come through the storm end what is left: new ones would mend what these have broken.
    fleet.lock().await.calm()?;
    let for_ever = Storm { until: never(), ledger: ledger.clone(), random: random.fork(), pace: 1, lease };
    let drained = async {
        let drained = aftermath::drain(&wire).await?;
        let crowd = if is_fleet && drained.is_some() { crowd::probe(&wire, &ledger).await? } else { Counts::new() };
        anyhow::Ok((drained, crowd))
    };
    let (drained, crowd) = tokio::select! {
        drained = drained => drained?,
        ended = faults::workers::calm(for_ever, &fleet) => { ended?; (None, Counts::new()) }
    };
    unwell.extend(fleet.into_inner().stop()?);

    let records = ledger::read(folder)?;
    // Heartbeats come at a third of the lease. Where neither they nor the server are held up, the lease of a process goes
    // on for two thirds when it is paused; half of which may go by on a busy machine.
    let is_undisturbed = matches!(arguments.what, What::Workers | What::Fleet);
    let leased = if is_undisturbed { u64::try_from(lease.as_nanos() / 3)? } else { 0 };
    let mut report = if is_soak {
        check::check_what_is_kept(&wire, &records).await?
    } else {
        check::check(&wire, &records, leased).await?
    };
    if is_soak {
        let windows = soak::windows(&records, &samples);
        report.counts.extend(soak::counts(&windows));
        report.violations.extend(soak::drifts(&windows, arguments.seconds));
        report.violations.extend(soak::gaps(&windows, plan.stream));
        report.violations.extend(soak::lost(&records, plan.stream));
        if let Some(path) = &arguments.svg {
            let picture = picture::draw(&name, soak::garbage(kind), &windows, &soak::deaths(&records));
            std::fs::write(path, picture).with_context(|| format!("cannot write {}", path.display()))?;
        }
    }
    if is_fleet {
        report.counts.extend(crowd.into_iter().chain(crowd::shares(&records)));
        report.counts.insert("connections at most", most_connections);
        let allowed = crowd::CONNECTIONS_OF_A_PROCESS * processes;
        if most_connections > allowed {
            report.violations.push(format!("{most_connections} connections, where {allowed} are many"));
        }
        report.violations.extend(crowd::excesses(&report.counts, usize::try_from(plan.workers)?));
    }
    (report.database, report.seed, report.seconds) = (name, seed, arguments.seconds);
    report.faults = ledger::faults(&records, lease);
    if arguments.what == What::Galera {
        let conflicts = report.faults.get(faults::galera::CONFLICT).copied().unwrap_or(0);
        let acknowledged = report.counts.get("acknowledged").copied().unwrap_or(0);
        report.counts.insert("conflicts per million commands", conflicts * 1_000_000 / acknowledged.max(1));
    }
    report.violations.extend(unwell);
    if kind == DatabaseKind::Sqlite {
        report.violations.extend(faults::sqlite::wrong_with(&url).await?);
    }
    match drained {
        Some(time) => {
            let millis = usize::try_from(time.as_millis())?;
            report.counts.insert("ms from the last append until all had ended", millis);
        }
        None => {
            let standstill = aftermath::STANDSTILL;
            report.violations.push(format!("nothing ended for {standstill:?} while commands were live"));
        }
    }
    let wanted = wanted(arguments.what, kind, arguments.seconds / u64::from(pace));
    let impossible = |fault: &&str| {
        *fault == faults::network::PULLED && !has_cables || *fault == faults::sqlite::READ_ONLY && !can_be_read_only
    };
    let few = few(arguments.what, kind, arguments.seconds, &report);
    report.violations.extend(few);
    let wanted = wanted.into_iter().filter(|fault| !impossible(fault));
    let untried = wanted.filter(|fault| !report.faults.contains_key(*fault));
    report.violations.extend(untried.map(|fault| format!("nothing was tried: no {fault:?}")));
    if wires.iter().flat_map(|wires| wires.all()).any(|wire| !wire.was_used()) {
        report.violations.push("nothing was tried: a process did not come through its wire".to_owned());
    }
    if arguments.seconds >= LONG_ENOUGH {
        // Where the server is away for a good part of the time appends fail at once, faster than others succeed.
        let is_often_away = matches!(arguments.what, What::Disk | What::Failover | What::Galera);
        report.violations.extend(tried::untried(&report.counts, if is_often_away { 75 } else { 50 }));
    }
    if !is_soak && arguments.seconds >= LONG_ENOUGH {
        let acknowledged = report.counts.get("acknowledged").copied().unwrap_or(0);
        if u64::try_from(acknowledged)? < LEAST * arguments.seconds {
            report.violations.push(format!("nothing was tried: {acknowledged} commands are too few to judge by"));
        }
    }
    Ok(report)
}

const fn attacks_workers(what: What) -> bool {
    matches!(what, What::Workers | What::Failover | What::Galera | What::All | What::Soak)
}

/// What came too seldom in a long run for what it is to show.
fn few(what: What, kind: DatabaseKind, seconds: u64, report: &Report) -> Vec<String> {
    let share = |many: u64| if seconds < LONG_ENOUGH_FOR_MANY { 0 } else { many * seconds / LONG_ENOUGH_FOR_MANY };
    let mut wanted: Vec<(&str, u64)> = match what {
        What::All | What::Workers => MANY.to_vec(),
        What::Failover => vec![MANY_PROMOTIONS],
        What::Galera => vec![MANY_NODES],
        _ => Vec::new(),
    };
    if matches!(what, What::All | What::Database) && kind != DatabaseKind::Sqlite {
        wanted.push(MANY_OF_A_SERVER);
    }
    let count = |name: &str| u64::try_from(report.faults.get(name).copied().unwrap_or(0)).unwrap_or(u64::MAX);
    let few = wanted.into_iter().filter(|(name, many)| count(name) < share(*many));
    let mut few: Vec<String> =
        few.map(|(name, many)| format!("tried too seldom: {} of {} {name:?}", count(name), share(many))).collect();
    let acknowledged = u64::try_from(report.counts.get("acknowledged").copied().unwrap_or(0)).unwrap_or(u64::MAX);
    if what == What::All && acknowledged < share(MANY_COMMANDS) {
        few.push(format!("tried too seldom: {acknowledged} of {} commands", share(MANY_COMMANDS)));
    }
    few
}

/// The faults without which a run of so many seconds, at the pace of a storm, has shown nothing.
fn wanted(what: What, kind: DatabaseKind, seconds: u64) -> Vec<&'static str> {
    let of = |part: What| what == part || matches!(what, What::All | What::Soak);
    let is_server = kind != DatabaseKind::Sqlite;
    let mut wanted = Vec::new();
    if seconds >= LONG_ENOUGH {
        let workers: &[&str] =
            if attacks_workers(what) { &[fleet::KILL, fleet::DEPLOY, ledger::PAUSE, fleet::STARVED] } else { &[] };
        // On SQLite the machine's clock is the database's.
        let clocks: &[&str] = if of(What::Workers) && is_server { &[fleet::OFF, fleet::JUMP] } else { &[] };
        let server: &[&str] = match what {
            What::Failover => &[faults::failover::PROMOTION],
            What::Galera => &[faults::galera::KILL],
            What::Disk => &[faults::disk::FULL],
            _ if of(What::Database) && is_server => &[faults::database::KILL],
            _ if of(What::Database) => &faults::sqlite::KINDS,
            _ => &[],
        };
        wanted.extend([workers, clocks, server].concat());
    }
    if seconds >= LONG_ENOUGH_FOR_ALL && is_server {
        let server: &[&str] = if of(What::Database) { &faults::database::KINDS } else { &[] };
        let network: &[&str] = if of(What::Network) { &faults::network::KINDS } else { &[] };
        let cluster: &[&str] = if what == What::Galera { &[faults::galera::CUT_OFF_IN_USE] } else { &[] };
        wanted.extend([server, network, cluster].concat());
    }
    wanted
}

/// Nothing lasts so long.
fn never() -> Instant {
    Instant::now() + aftermath::STANDSTILL * 100
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_judged_by_the_faults_for_which_it_is_long_enough() {
        assert!(wanted(What::All, DatabaseKind::Postgres, LONG_ENOUGH - 1).is_empty());
        let minute = wanted(What::All, DatabaseKind::Postgres, LONG_ENOUGH);
        let workers = [fleet::KILL, fleet::DEPLOY, ledger::PAUSE, fleet::STARVED, fleet::OFF, fleet::JUMP];
        assert_eq!(minute, [&workers[..], &[faults::database::KILL]].concat());
        let long = wanted(What::All, DatabaseKind::Mariadb, LONG_ENOUGH_FOR_ALL);
        assert!(faults::database::KINDS.iter().chain(&faults::network::KINDS).all(|kind| long.contains(kind)));
        assert_eq!(wanted(What::Database, DatabaseKind::Sqlite, LONG_ENOUGH_FOR_ALL), faults::sqlite::KINDS);
        assert!(wanted(What::Fleet, DatabaseKind::Postgres, LONG_ENOUGH_FOR_ALL).is_empty());
        for (what, kind) in [(What::Failover, DatabaseKind::Postgres), (What::Galera, DatabaseKind::Mariadb)] {
            let minute = wanted(what, kind, LONG_ENOUGH);
            assert!([fleet::KILL, ledger::PAUSE].iter().all(|fault| minute.contains(fault)), "{minute:?}");
        }
    }

    #[test]
    fn a_long_run_is_judged_by_how_often_everything_came() {
        let mut report = Report::default();
        assert!(few(What::All, DatabaseKind::Sqlite, LONG_ENOUGH_FOR_MANY - 1, &report).is_empty());
        assert_eq!(few(What::All, DatabaseKind::Mariadb, LONG_ENOUGH_FOR_MANY, &report).len(), 4);
        report.faults.extend([(fleet::KILL.to_owned(), 100), (ledger::PAUSE.to_owned(), 9)]);
        report.counts.insert("acknowledged", 100_000);
        let few = few(What::All, DatabaseKind::Sqlite, LONG_ENOUGH_FOR_MANY, &report);
        assert_eq!(few, [format!("tried too seldom: 9 of 10 {:?}", ledger::PAUSE)]);
    }
}
