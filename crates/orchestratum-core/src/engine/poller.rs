//! The poller: finds out what is due, claims it, and hands it to the application's runtime.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::engine::attempt::{Attempt, Finished, GiveBack, Stop};
use crate::engine::backoff::Backoff;
use crate::engine::held::Holdings;
use crate::engine::lanes::Lanes;
use crate::engine::slots::Slots;
use crate::engine::wake::PollerWake;
use crate::engine::{Shared, answer, guarded, jittered};
use crate::error::Result;
use crate::instance_id::InstanceId;
use crate::store::Store;
use crate::store::claim::{Claimed, Lane};
use crate::store::instance::Held;
use crate::store::settle::Lease;

/// The claiming loop. One a worker: a crowd of claims would only wait for each other.
#[derive(Debug)]
pub(crate) struct Poller {
    pub(crate) shared: Arc<Shared>,
    pub(crate) store: Store,
    pub(crate) holdings: Arc<Holdings>,
    /// Where handlers run.
    pub(crate) runtime: Handle,
    pub(crate) reports: mpsc::UnboundedSender<Finished>,
    pub(crate) stopping: CancellationToken,
    pub(crate) wake: Arc<PollerWake>,
    pub(crate) slots: Slots,
    pub(crate) lanes: Lanes,
}

impl Poller {
    /// Runs until the worker stops. No error ends it.
    pub(crate) async fn run(mut self) {
        let mut backoff = Backoff::new("poller");
        let mut next_survey = Instant::now();
        while !self.stopping.is_cancelled() {
            let wait_until = match guarded(self.step(&mut next_survey)).await {
                Ok(asked) => {
                    if asked {
                        backoff.succeeded();
                    }
                    self.next_look(next_survey)
                }
                Err(error) => {
                    // The claim may have happened all the same.
                    self.holdings.doubt();
                    next_survey = Instant::now();
                    let wait = Instant::now() + backoff.failed(&error);
                    tokio::select! {
                        () = tokio::time::sleep_until(wait) => {}
                        () = self.stopping.cancelled() => {}
                    }
                    continue;
                }
            };
            if let Some(until) = wait_until {
                tokio::select! {
                    () = self.wake.notified() => {}
                    () = tokio::time::sleep_until(until) => {}
                    () = self.stopping.cancelled() => {}
                }
            }
        }
    }

    /// Surveys if it is time, then claims until nothing is due or nothing has room. `false`: the database was not asked.
    async fn step(&mut self, next_survey: &mut Instant) -> Result<bool> {
        if self.holdings.may_claim().is_none() {
            // Not registered, or cut off from the database: the heartbeat says when.
            *next_survey = Instant::now();
            return Ok(false);
        }
        self.hear(next_survey);
        self.give_back_what_nobody_holds().await?;
        let mut asked = false;
        if *next_survey <= Instant::now() {
            self.survey().await?;
            asked = true;
            *next_survey = Instant::now() + jittered(self.shared.config.polling_interval);
        }
        while let Some(instance) = self.holdings.may_claim() {
            if self.holdings.unsettled() > self.shared.config.most_unsettled() {
                // The finisher wakes the poller when it has caught up.
                break;
            }
            let slots = &mut self.slots;
            let Some((lane, after, room)) = self.lanes.pick(|queue| slots.room(queue)) else {
                break;
            };
            let room = room.min(self.shared.config.claim_batch);
            let claim = self.store.claim(instance, &lane, after, room);
            let claimed = answer(&self.store, &self.shared.config, claim).await?;
            asked = true;
            let (count, last) = (claimed.len(), claimed.last().map(|command| command.run_at));
            if count > 0 {
                self.lanes.saw(&lane, claimed.iter().map(|command| command.id));
                tracing::debug!(name: "orchestratum.claim", count, queue = %lane.queue, key = %lane.key, "claimed");
                self.start(instance, claimed);
            }
            match last {
                Some(last) if count == room => self.lanes.took_all_it_could(&lane, last),
                _ => self.ran_dry(&lane).await?,
            }
            if self.stopping.is_cancelled() {
                break;
            }
            self.hear(next_survey);
            if *next_survey <= Instant::now() {
                // New lanes must not wait for the end of a backlog.
                self.survey().await?;
                *next_survey = Instant::now() + jittered(self.shared.config.polling_interval);
            }
        }
        Ok(asked)
    }

    /// A claim whose answer was lost has leased commands to this instance that it does not hold. Nobody but the poller
    /// claims: between two of its claims nothing of its own is under way, and whatever is leased and not held is lost.
    /// A settlement that comes in between has removed the lease, and giving it back changes nothing.
    async fn give_back_what_nobody_holds(&mut self) -> Result<()> {
        let lease = self.holdings.lease();
        let Some(doubt) = lease.doubt.filter(|doubt| doubt.next_look <= Instant::now()) else { return Ok(()) };
        let leased = answer(&self.store, &self.shared.config, self.store.held(lease.instance)).await?;
        let held = self.holdings.all();
        let held: HashSet<Held> = held.iter().map(|attempt| attempt.held()).collect();
        let lost: Vec<Held> = leased.difference(&held).copied().collect();
        if !lost.is_empty() {
            let give_back = self.store.give_back(lease.instance, &lost, self.shared.config.max_lost_leases);
            let count = answer(&self.store, &self.shared.config, give_back).await?;
            tracing::warn!(name: "orchestratum.snooze", count, "gave back claims whose answer was lost");
            self.shared.wake.survey();
        }
        self.holdings.looked_into(doubt);
        Ok(())
    }

    fn hear(&mut self, next_survey: &mut Instant) {
        let hints = self.wake.take_hints();
        if hints.survey {
            *next_survey = Instant::now();
        }
        for (lane, due) in hints.lanes {
            if self.serves(&lane) {
                self.lanes.hint(lane, due);
            }
        }
        for (lane, commands) in hints.armed {
            if self.serves(&lane) {
                self.lanes.arm(lane, commands);
            }
        }
    }

    async fn survey(&mut self) -> Result<()> {
        let heads = answer(&self.store, &self.shared.config, self.store.survey()).await?;
        let (registry, config) = (&self.shared.registry, &self.shared.config);
        let ours = |lane: &Lane| config.serves(&lane.queue) && registry.get(&lane.key).is_some();
        self.lanes.learn(heads.into_iter().filter(|head| ours(&head.lane)));
        Ok(())
    }

    fn serves(&self, lane: &Lane) -> bool {
        self.shared.config.serves(&lane.queue) && self.shared.registry.get(&lane.key).is_some()
    }

    /// Asks when the lane's next scheduled command is due, so that it does not wait for a poll.
    async fn ran_dry(&mut self, lane: &Lane) -> Result<()> {
        self.lanes.ran_dry(lane);
        if let Some(micros) = answer(&self.store, &self.shared.config, self.store.next_due_micros(lane)).await? {
            let wait = Duration::from_micros(u64::try_from(micros).unwrap_or(0));
            if let Some(due) = Instant::now().checked_add(wait) {
                self.lanes.hint(lane.clone(), due);
            }
        }
        Ok(())
    }

    fn start(&mut self, instance: InstanceId, claimed: Vec<Claimed>) {
        let attempts: Vec<Arc<Attempt>> = claimed
            .into_iter()
            .map(|claimed| {
                let lease = Lease { id: claimed.id, attempt: claimed.attempt, instance };
                let (shared, holdings) = (Arc::clone(&self.shared), Arc::clone(&self.holdings));
                Arc::new(Attempt::new(shared, lease, claimed, holdings, self.reports.clone()))
            })
            .collect();
        // Held before it runs: from here on the heartbeat can stop it. What was claimed under a lease that has been
        // lost meanwhile is told here: the heartbeat has looked before it was held.
        self.holdings.add(&attempts);
        if self.holdings.may_claim() != Some(instance) {
            attempts.iter().for_each(|attempt| {
                attempt.stop(Stop::LeaseLost);
            });
        }
        for attempt in attempts {
            let slot = self.slots.take(&attempt.claimed.queue);
            let task = self.runtime.spawn(Arc::clone(&attempt).run(slot, GiveBack::new(&attempt)));
            attempt.set_task(task.abort_handle());
            if task.is_finished() && !attempt.was_polled() {
                tracing::error!(name: "orchestratum.runtime.gone", "the runtime that started this worker has ended: so does the worker");
                self.stopping.cancel();
            }
        }
    }

    /// When to look again if nothing signals; `None`: at once.
    fn next_look(&mut self, next_survey: Instant) -> Option<Instant> {
        let paused = self.holdings.may_claim().is_none();
        if paused || self.holdings.unsettled() > self.shared.config.most_unsettled() {
            return Some(Instant::now() + Duration::from_millis(50));
        }
        let waiting: Vec<String> = self.lanes.waiting_for_room().into_iter().map(str::to_owned).collect();
        for queue in waiting {
            if self.slots.wake_when_free(&queue) {
                return None;
            }
        }
        Some(self.lanes.next_due().map_or(next_survey, |due| due.min(next_survey)))
    }
}
