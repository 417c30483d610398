//! The poller: finds out what is due, claims it, and has it started.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::future::{BoxFuture, Fuse, FusedFuture as _, FutureExt as _};
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::engine::backoff::Backoff;
use crate::engine::held::{Doubt, Holdings};
use crate::engine::lanes::{Lanes, Pick};
use crate::engine::starter::Starter;
use crate::engine::surveys::Surveys;
use crate::engine::wake::PollerWake;
use crate::engine::{Shared, answer, guarded, jittered, leased_to, quietly, take_back};
use crate::error::Result;
use crate::instance_id::InstanceId;
use crate::outcome::Ending;
use crate::store::Store;
use crate::store::claim::{Claimed, Head, Lane, Taken};
use crate::store::instance::Held;

/// The claiming loop. One a worker, with two claims under way in a backlog: while the commands of one are started the
/// database works on the next, and a crowd of claims would only wait for each other.
#[derive(Debug)]
pub(crate) struct Poller {
    pub(crate) shared: Arc<Shared>,
    pub(crate) store: Store,
    pub(crate) holdings: Arc<Holdings>,
    pub(crate) starter: Arc<Starter>,
    pub(crate) stopping: CancellationToken,
    pub(crate) wake: Arc<PollerWake>,
    pub(crate) lanes: Lanes,
    pub(crate) surveys: Surveys,
    /// Claims of which it is not known whether they have happened.
    pub(crate) unanswered: usize,
}

/// How long a worker that is always too late hesitates at most, for each other worker: whatever their number, the first
/// of them looks so soon on average.
const HESITATION: Duration = Duration::from_millis(20);

impl Poller {
    /// Runs until the worker stops. No error ends it.
    pub(crate) async fn run(mut self) {
        let mut backoff = Backoff::new("poller");
        while !self.stopping.is_cancelled() {
            self.starter.slots.search();
            let wait_until = match guarded(self.step()).await {
                Ok(asked) => {
                    if asked {
                        backoff.succeeded();
                    }
                    self.next_look()
                }
                Err(error) => {
                    // A claim may have happened all the same; after a panic some are no longer waited for.
                    if std::mem::take(&mut self.unanswered) > 0 {
                        self.holdings.doubt();
                    }
                    self.starter.slots.release_all();
                    self.lanes.all_failed();
                    self.surveys.ask();
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

    /// Claims until nothing is due, nothing has room, or it is time for the next survey, which is made beside the claims
    /// of the next step: neither do commands wait while it walks past dead index entries, nor new lanes for the end of a
    /// backlog. `false`: the database was not asked.
    ///
    /// While claims are under way nothing is awaited without them: they hold connections, and locks on rows.
    async fn step(&mut self) -> Result<bool> {
        if self.holdings.may_claim().is_none() {
            // Not registered, or cut off from the database: the heartbeat says when.
            self.surveys.ask();
            return Ok(false);
        }
        self.hear();
        self.give_back_what_nobody_holds().await?;
        let is_time = self.surveys.due() <= Instant::now();
        let begun = Instant::now();
        let mut survey = if is_time { self.survey().fuse() } else { Fuse::terminated() };
        let (mut claims, mut emptied) = (FuturesUnordered::new(), HashSet::new());
        let (mut failure, mut asked) = (None, is_time);
        loop {
            while failure.is_none()
                && (!survey.is_terminated() || Instant::now() < self.surveys.due())
                && claims.len() < self.store.backend.transactions_at_once()
                && let Some((instance, pick)) = self.pick()
            {
                self.unanswered += 1;
                claims.push(claim(Arc::clone(&self.shared), self.store.clone(), instance, pick));
            }
            let only_surveys = claims.is_empty() && !survey.is_terminated();
            if only_surveys && failure.is_some() {
                break;
            }
            let may_claim = only_surveys && self.may_claim().is_some();
            if may_claim && self.room_has_come(&self.lanes.waiting_for_room()) {
                continue;
            }
            let next_due = may_claim.then(|| self.lanes.next_due()).flatten();
            tokio::select! {
                // The survey first: where there is one connection, what it costs is not the time of a claim.
                biased;
                heads = &mut survey, if !survey.is_terminated() => match heads {
                    Ok(heads) => self.surveyed(begun, heads),
                    Err(error) => failure = Some(error),
                },
                Some((instance, pick, claimed)) = claims.next() => match claimed {
                    Ok(claimed) => {
                        asked = true;
                        if self.took(instance, &pick, claimed) {
                            emptied.insert(pick.lane);
                        }
                        // Only now: what has not been started is as good as lost.
                        self.unanswered -= 1;
                    }
                    Err(error) => {
                        self.unanswered -= usize::from(error.never_happened());
                        self.starter.slots.release(&pick.lane.queue, pick.room);
                        self.lanes.failed(&pick);
                        failure = Some(error);
                    }
                },
                () = self.stopping.cancelled(), if only_surveys => break,
                () = self.wake.notified(), if only_surveys => {}
                () = tokio::time::sleep_until(next_due.unwrap_or(begun)), if next_due.is_some() => {}
                else => break,
            }
            self.hear();
        }
        if let Some(error) = failure {
            return Err(error);
        }
        for lane in &emptied {
            self.look_ahead(lane).await?;
        }
        Ok(asked)
    }

    /// The next claim, if something is due, there is room for it, and the worker may claim.
    fn pick(&mut self) -> Option<(InstanceId, Pick)> {
        let instance = self.may_claim()?;
        let (slots, most) = (&self.starter.slots, self.shared.config.claim_batch);
        let pick = self.lanes.pick(|queue| slots.room(queue).min(most))?;
        self.starter.slots.reserve(&pick.lane.queue, pick.room);
        Some((instance, pick))
    }

    /// Not while the finisher is behind, which wakes the poller when it has caught up, nor before a doubt has been looked
    /// into, which is done once no claim is under way, also in the middle of a backlog.
    fn may_claim(&self) -> Option<InstanceId> {
        let is_settled = self.holdings.unsettled() <= self.shared.config.most_unsettled();
        let instance = self.holdings.may_claim().filter(|_| is_settled && !self.stopping.is_cancelled());
        instance.filter(|_| self.doubt().is_none())
    }

    /// Starts what a claim has brought. `true`: the lane has nothing more that is due.
    fn took(&mut self, instance: InstanceId, pick: &Pick, taken: Taken) -> bool {
        let (lane, count) = (&pick.lane, taken.commands.len());
        self.starter.slots.release(&lane.queue, pick.room.saturating_sub(count));
        if count > 0 {
            self.lanes.saw(lane, taken.commands.iter().map(|command| command.id));
            self.lanes.weighed(lane, count, taken.commands.iter().map(Claimed::weight).sum());
            if !self.store.announces() {
                self.lanes.expect_more(lane.clone());
            }
            quietly(
                || tracing::debug!(target: "orchestratum::claim", count, queue = %lane.queue, key = %lane.key, "claimed"),
            );
            let slots = self.starter.slots.take(&lane.queue, count);
            self.starter.start(instance, std::iter::zip(taken.commands, slots));
        }
        self.lanes.took(pick, count, taken.reached)
    }

    /// A doubt that is to be looked into now.
    fn doubt(&self) -> Option<Doubt> {
        self.holdings.lease().doubt.filter(|doubt| doubt.next_look <= Instant::now())
    }

    /// A claim whose answer was lost has leased commands to this instance that it does not hold. Here no claim is under
    /// way, and what an append is about to lease is held already: whatever is leased and not held is lost. A settlement that comes in between has removed the lease, and giving it back changes nothing.
    async fn give_back_what_nobody_holds(&mut self) -> Result<()> {
        let lease = self.holdings.lease();
        let Some(doubt) = self.doubt() else { return Ok(()) };
        let (store, config) = (&self.store, &self.shared.config);
        let looked = async {
            let mut leased = leased_to(store, config, &[lease.instance]).await?;
            let leased = leased.remove(&lease.instance).unwrap_or_default();
            let lost: Vec<Held> = leased.difference(&self.holdings.held()).copied().collect();
            let (count, result) = take_back(&self.shared, store, lease.instance, &lost, &Ending::GivenBack).await;
            if count > 0 {
                tracing::warn!(target: "orchestratum::snooze", count, "gave back claims whose answer was lost");
                self.shared.wake.survey();
            }
            result.map(|()| count == lost.len())
        };
        match Box::pin(looked).await {
            Ok(true) => self.holdings.looked_into(doubt),
            // Some are locked; or the database does not answer. Claims go on meanwhile.
            Ok(false) => self.holdings.postpone(doubt),
            Err(error) => {
                self.holdings.postpone(doubt);
                return Err(error);
            }
        }
        Ok(())
    }

    fn hear(&mut self) {
        let hints = self.wake.take_hints();
        if hints.survey {
            self.surveys.ask();
        }
        if hints.changed {
            self.surveys.changed();
        }
        for (lane, due) in hints.lanes {
            if self.serves(&lane) {
                self.lanes.hint(lane, due);
            }
        }
        let others = self.shared.instances.load(Ordering::Relaxed).saturating_sub(1);
        let hesitation =
            (HESITATION * u32::try_from(others).unwrap_or(u32::MAX)).min(self.shared.config.polling_interval);
        for (lane, due) in hints.announced {
            if self.serves(&lane) {
                self.lanes.announced(&lane, due, hesitation);
            }
        }
        for (lane, commands) in hints.armed {
            if self.serves(&lane) {
                self.lanes.arm(lane, commands);
            }
        }
    }

    /// Asks which lanes there are; nothing of this poller is touched until [`surveyed`](Self::surveyed).
    fn survey(&mut self) -> BoxFuture<'static, Result<Vec<Head>>> {
        self.surveys.begin();
        let (shared, store) = (Arc::clone(&self.shared), self.store.clone());
        async move { answer(&store, &shared.config, store.survey()).await }.boxed()
    }

    fn surveyed(&mut self, begun: Instant, heads: Vec<Head>) {
        self.surveys.ended(begun, jittered(self.shared.config.polling_interval));
        let ours: Vec<_> = heads.into_iter().filter(|head| self.serves(&head.lane)).collect();
        self.lanes.learn(begun, ours.into_iter());
    }

    fn serves(&self, lane: &Lane) -> bool {
        self.shared.config.serves(&lane.queue) && self.shared.registry.get(&lane.key).is_some()
    }

    /// Asks when the lane's next scheduled command is due, so that it does not wait for a poll.
    async fn look_ahead(&mut self, lane: &Lane) -> Result<()> {
        if let Some(micros) = answer(&self.store, &self.shared.config, self.store.next_due_micros(lane)).await? {
            let wait = Duration::from_micros(u64::try_from(micros).unwrap_or(0));
            if let Some(due) = Instant::now().checked_add(wait) {
                self.lanes.hint(lane.clone(), due);
            }
        }
        Ok(())
    }

    /// Whether one of the queues has room; if not, the poller is woken once one has.
    fn room_has_come(&self, waiting: &[&str]) -> bool {
        waiting.iter().any(|queue| self.starter.slots.wake_when_free(queue))
    }

    /// When to look again if nothing signals; `None`: at once.
    fn next_look(&self) -> Option<Instant> {
        let paused = self.holdings.may_claim().is_none();
        if paused || self.holdings.unsettled() > self.shared.config.most_unsettled() {
            return Some(Instant::now() + Duration::from_millis(50));
        }
        let waiting = self.lanes.waiting_for_room();
        if self.room_has_come(&waiting) {
            return None;
        }
        self.starter.slots.rest(&waiting);
        let survey = self.surveys.due();
        Some(self.lanes.next_due().map_or(survey, |due| due.min(survey)))
    }
}

/// One claim, to its answer.
async fn claim(
    shared: Arc<Shared>,
    store: Store,
    instance: InstanceId,
    pick: Pick,
) -> (InstanceId, Pick, Result<Taken>) {
    let claim = store.claim(instance, &pick.lane, pick.after, pick.room);
    let claimed = answer(&store, &shared.config, claim).await;
    (instance, pick, claimed)
}
