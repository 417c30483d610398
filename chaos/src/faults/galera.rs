//! A cluster of which one node after the other dies and comes back.

use std::time::Duration;

use anyhow::Result;
use orchestratum_testbed::{DatabaseServer as _, Galera, MariaDb};
use tokio::task::block_in_place;

use super::Storm;
use crate::proxy::Proxy;

const KILLS: Duration = Duration::from_secs(15);

/// What the certification of writes has refused, as the nodes count it.
pub(crate) const CONFLICT: &str = "conflict of two nodes";

/// Each proxy leads to the node of the same place, and to its neighbor while that is away.
pub(crate) async fn rage(mut storm: Storm, cluster: &mut Galera, proxies: &[Proxy]) -> Result<()> {
    while storm.lull(KILLS).await {
        let node = storm.random.usize(..proxies.len());
        let neighbor = (node + 1) % proxies.len();
        note_conflicts(&storm, &cluster.nodes()[node]);
        storm.note("kill -9 of a node");
        block_in_place(|| cluster.kill(node))?;
        tokio::time::sleep(storm.millis(0..2_000)).await;
        proxies[node].lead_to(cluster.nodes()[neighbor].port());
        tokio::time::sleep(storm.millis(0..5_000)).await;
        block_in_place(|| cluster.rejoin(node))?;
        proxies[node].lead_to(cluster.nodes()[node].port());
    }
    cluster.nodes().iter().for_each(|node| note_conflicts(&storm, node));
    Ok(())
}

/// A node counts from its start.
fn note_conflicts(storm: &Storm, node: &MariaDb) {
    let sql = "SELECT variable_value FROM information_schema.global_status \
        WHERE variable_name IN ('wsrep_local_cert_failures', 'wsrep_local_bf_aborts')";
    let Ok(answer) = block_in_place(|| node.query(MariaDb::ADMIN_DATABASE, sql)) else { return };
    let count: u64 = answer.split_whitespace().filter_map(|value| value.parse::<u64>().ok()).sum();
    (0..count).for_each(|_| storm.note(CONFLICT));
}
