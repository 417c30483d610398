//! A cluster of which one node after the other dies, or is cut off, and comes back.

use std::time::Duration;

use anyhow::Result;
use orchestratum_testbed::{DatabaseServer as _, Galera, MariaDb};
use tokio::task::block_in_place;

use super::Storm;
use crate::proxy::Wires;

/// As the ledger has it.
pub(crate) const KILL: &str = "kill -9 of the node in use";
pub(crate) const NODE: &str = "kill -9 of a node";
pub(crate) const CUT_OFF: &str = "partition of a node from the others";
pub(crate) const CUT_OFF_IN_USE: &str = "partition of the node in use";
const KILLS: Duration = Duration::from_secs(5);
/// So many milliseconds a partition lasts: the others give a node up after five seconds.
const PARTITION: std::ops::Range<u64> = 4_000..15_000;

/// What the certification of writes has refused, as the nodes count it.
pub(crate) const CONFLICT: &str = "conflict of two nodes";

/// The wires lead to one node until that dies, and then to its neighbor, as a balancer with stand-ins does.
pub(crate) async fn rage(mut storm: Storm, cluster: &mut Galera, wires: &Wires) -> Result<()> {
    let (count, mut writer) = (cluster.nodes().len(), 0);
    while storm.lull(KILLS).await {
        // The one that is written to more often than not.
        let node = if storm.random.bool() { writer } else { storm.random.usize(..count) };
        let is_cut_off = storm.random.u8(..3) == 0;
        if is_cut_off {
            block_in_place(|| cluster.isolate(node))?;
            storm.note(CUT_OFF);
        } else {
            note_conflicts(&storm, &cluster.nodes()[node]);
            block_in_place(|| cluster.kill(node))?;
            storm.note(NODE);
        }
        if node == writer {
            storm.note(if is_cut_off { CUT_OFF_IN_USE } else { KILL });
            tokio::time::sleep(storm.millis(0..3_000)).await;
            writer = (node + 1) % count;
            wires.lead_to(cluster.nodes()[writer].port());
        }
        if is_cut_off {
            tokio::time::sleep(storm.millis(PARTITION)).await;
            block_in_place(|| cluster.reunite(node))?;
        } else {
            tokio::time::sleep(storm.millis(0..5_000)).await;
            block_in_place(|| cluster.rejoin(node))?;
        }
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
