//! A MariaDB Galera cluster: several servers, each of which takes writes.

use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::mariadb::MariaDb;
use crate::ports::Port;
use crate::server::{DatabaseServer as _, Options};

/// Joining copies the data of another node.
const JOIN_LIMIT: Duration = Duration::from_secs(120);

/// Private nodes that form one cluster; they stop when the value is dropped.
#[derive(Debug)]
pub struct Galera {
    nodes: Vec<MariaDb>,
    /// Of the group's own traffic; three for each node.
    _ports: Vec<Port>,
}

impl Galera {
    /// Starts a cluster of so many nodes; returns when all are in step.
    ///
    /// # Errors
    ///
    /// When MariaDB or the Galera library is not installed, or a node does not start or join.
    pub fn start(count: usize, options: &Options) -> Result<Self> {
        let library = library().context("Galera is not installed: `apt-get install galera-4 rsync`")?;
        let mut ports = Vec::new();
        // One more, which founds the cluster and then leaves: a node that was started to found one would found another
        // when it is started again.
        for _ in 0..(count + 1) * 3 {
            ports.push(Port::reserve()?);
        }
        let groups: Vec<[u16; 3]> =
            ports.chunks_exact(3).map(|group| [group[0].number(), group[1].number(), group[2].number()]).collect();
        let addresses: Vec<String> = groups.iter().map(|[base, ..]| format!("127.0.0.1:{base}")).collect();
        let start = |node: usize, founds: bool| {
            let mut options = options.clone();
            options.extra_args.extend(arguments(&library, groups[node], &addresses.join(",")));
            if founds {
                options.extra_args.push("--wsrep-new-cluster".into());
            }
            MariaDb::start(options)
        };
        let mut founder = start(count, true)?;
        let mut nodes = Vec::new();
        for node in 0..count {
            let node = start(node, false)?;
            wait_until_in_step(&node)?;
            nodes.push(node);
        }
        founder.stop()?;
        nodes.iter().try_for_each(wait_until_in_step)?;
        Ok(Self { nodes, _ports: ports })
    }

    /// The nodes; each is a server like any other, but for stopping and starting.
    #[must_use]
    pub fn nodes(&self) -> &[MariaDb] {
        &self.nodes
    }

    /// `kill -9` of one node; the others go on while they are more than half.
    ///
    /// # Errors
    ///
    /// When the system refuses.
    pub fn kill(&mut self, node: usize) -> Result<()> {
        self.nodes[node].kill()
    }

    /// Starts a node that was killed; returns when it has caught up.
    ///
    /// # Errors
    ///
    /// When it does not start or does not catch up.
    pub fn rejoin(&mut self, node: usize) -> Result<()> {
        self.nodes[node].start_again()?;
        wait_until_in_step(&self.nodes[node])
    }

    /// Cuts one node off from the others, as a network does that falls apart; the others go on while they are more than
    /// half, and that one refuses statements as soon as it has given them up.
    ///
    /// # Errors
    ///
    /// When the node does not answer.
    pub fn isolate(&self, node: usize) -> Result<()> {
        self.nodes[node].query(MariaDb::ADMIN_DATABASE, &isolation(true))?;
        Ok(())
    }

    /// Lets a node that was cut off find the others again; returns when it has caught up.
    ///
    /// # Errors
    ///
    /// When it does not catch up.
    pub fn reunite(&self, node: usize) -> Result<()> {
        self.nodes[node].query(MariaDb::ADMIN_DATABASE, &isolation(false))?;
        wait_until_in_step(&self.nodes[node])
    }
}

fn isolation(isolated: bool) -> String {
    format!("SET GLOBAL wsrep_provider_options = 'gmcast.isolate={}'", u8::from(isolated))
}

fn wait_until_in_step(node: &MariaDb) -> Result<()> {
    let deadline = Instant::now() + JOIN_LIMIT;
    let status = "SHOW GLOBAL STATUS LIKE 'wsrep_local_state_comment'";
    while !node.query(MariaDb::ADMIN_DATABASE, status).is_ok_and(|state| state.ends_with("Synced")) {
        if Instant::now() >= deadline {
            bail!("a node is not in step with its cluster after {JOIN_LIMIT:?}");
        }
        thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

fn arguments(library: &Path, [base, increments, copies]: [u16; 3], addresses: &str) -> Vec<String> {
    vec![
        "--binlog-format=ROW".into(),
        "--innodb-autoinc-lock-mode=2".into(),
        "--wsrep-on=ON".into(),
        format!("--wsrep-provider={}", library.display()),
        "--wsrep-cluster-name=orchestratum".into(),
        format!("--wsrep-cluster-address=gcomm://{addresses}"),
        format!("--wsrep-node-address=127.0.0.1:{base}"),
        format!(
            "--wsrep-provider-options=base_port={base};ist.recv_addr=127.0.0.1:{increments};\
             gmcast.listen_addr=tcp://127.0.0.1:{base}"
        ),
        "--wsrep-sst-method=rsync".into(),
        format!("--wsrep-sst-receive-address=127.0.0.1:{copies}"),
    ]
}

pub(crate) fn library() -> Option<PathBuf> {
    let folders = ["/usr/lib/galera", "/usr/lib", "/usr/lib64/galera-4", "/usr/lib64/galera"];
    folders.iter().map(|folder| Path::new(folder).join("libgalera_smm.so")).find(|path| path.exists())
}
