//! Which lanes have something to claim, and in which order.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use tokio::time::Instant;

use crate::command::CommandId;
use crate::instant::Timestamp;
use crate::store::claim::{Head, Lane};

#[cfg(test)]
mod tests;

/// What the poller knows of the lanes that it serves. A guess, refreshed by each survey.
///
/// A claim begins where the last one ended: what lies before is gone, but its index entries stay until they are vacuumed,
/// which takes a minute at best, and hours where an old snapshot is held elsewhere. What comes to lie there later (a
/// command given back, a transaction that was long in coming) is found by a look from the start: when nothing else is
/// due, and otherwise as often as takes a twentieth of the time, in a streak of full claims once a second.
#[derive(Debug, Default)]
pub(crate) struct Lanes {
    lanes: HashMap<Lane, State>,
    armed: HashMap<Lane, Armed>,
}

#[derive(Debug, Clone, Copy)]
struct State {
    /// When to look for a command of which the last look from the start cannot have known.
    wanted: Option<Instant>,
    /// When something else than a survey last asked for a look.
    hinted: Option<Instant>,
    /// Where claims have come to: nothing that is due lay before it when the lane was last read. `None`: nobody knows.
    reached: Option<Timestamp>,
    /// What the survey that asked for the next look has found first, so that the look need not walk to it again.
    head: Option<Timestamp>,
    /// The last claim was full: more is due at once.
    streak: bool,
    /// When the lane last had its turn.
    turn: Instant,
    /// When the lane was last read from its start, and how long that took.
    looked: Option<(Instant, Duration)>,
    /// Claims under way.
    claims: usize,
    /// The next claim is on account of an announcement.
    announced: bool,
    /// Announcements in a row on which a claim found nothing: others are faster.
    misses: u32,
    /// Nothing was claimed since it was asked when the next command is due, and whoever appends says when.
    looked_ahead: bool,
    /// How many bytes of text a command has brought lately. `None`: nobody knows.
    weight: Option<usize>,
}

/// A claim to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pick {
    pub(crate) lane: Lane,
    /// From where on to read the lane.
    pub(crate) after: Timestamp,
    /// Nothing that is due lies before that.
    from_start: bool,
    /// How many commands to take at most.
    pub(crate) room: usize,
    announced: bool,
}

/// A lane that is looked at more and more seldom: it got a command inside of a transaction of this process, or had one
/// just now and nobody would say that it has another.
#[derive(Debug, Clone)]
struct Armed {
    /// The commands that have not been seen, and when each was appended.
    unseen: HashMap<CommandId, Instant>,
    /// Until when to look, whatever is seen.
    until: Instant,
    next: Instant,
    step: Duration,
}

/// From the start of the lane.
const FROM_START: Timestamp = Timestamp::from_micros(i64::MIN);
/// How often a lane in a streak is read from its start.
const LOOK_FROM_START: Duration = Duration::from_secs(1);
/// How much longer than a walk past dead index entries, in a look from the start or a survey, the time to the next one is
/// at least.
pub(crate) const WALK_COST: u32 = 20;
/// A walk that took longer has waited for something else than index entries.
pub(crate) const LONGEST_COST: Duration = Duration::from_millis(500);

/// How many bytes of payloads one claim may bring, about, and how many commands as long as their size is not known: the
/// memory of a worker does not grow with the size of payloads as it would by the largest claim of the largest ones.
const CLAIM_BYTES: usize = 4 * 1024 * 1024;
const UNWEIGHED: usize = 50;

/// How long a lane without commands is remembered.
const REMEMBER: Duration = Duration::from_secs(60);

/// The first look after an append in a transaction; most commit at once.
const FIRST_LOOK: Duration = Duration::from_millis(5);
const LONGEST_LOOK: Duration = Duration::from_secs(1);
/// A transaction that takes longer is found by the poll.
const STOP_LOOKING: Duration = Duration::from_secs(60);
/// How long after a command another one is looked out for where no append of another process is announced: long enough
/// for a steady load, and at most eight looks.
const EXPECT_MORE: Duration = Duration::from_secs(1);

/// So many announcements in a row that others have answered are no bad luck any more.
const BAD_LUCK: u32 = 3;

impl Lanes {
    /// Takes over what a survey has found; lanes that it did not find have nothing. What was hinted at, or claimed, since
    /// it has `begun` it cannot have seen.
    pub(crate) fn learn(&mut self, begun: Instant, heads: impl Iterator<Item = Head>) {
        let now = Instant::now();
        let mut known = std::mem::take(&mut self.lanes);
        for head in heads {
            let wait = Duration::from_micros(u64::try_from(head.due_in_micros).unwrap_or(0));
            let state = known.remove(&head.lane).unwrap_or(State { hinted: None, ..State::new(now) });
            let found = now.checked_add(wait);
            // One that was due already keeps its place: with a survey before each claim it would always come last.
            let kept = state.wanted.filter(|_| wait.is_zero() || state.is_hinted_since(begun));
            let is_first = state.reached.is_none() && state.claims == 0 && !state.is_hinted_since(begun);
            let first = Some(head.due_at).filter(|_| is_first);
            let learned = State { wanted: soonest(found, kept), head: first, looked_ahead: false, ..state };
            self.lanes.insert(head.lane, learned);
        }
        // Where it has come to is worth knowing when the lane gets its next command.
        let is_remembered =
            |state: &State| state.claims > 0 || state.turn + REMEMBER > now || state.is_hinted_since(begun);
        let unseen =
            |state: State| State { wanted: state.wanted.filter(|_| state.is_hinted_since(begun)), head: None, ..state };
        let lately = known.into_iter().filter(|(_, state)| is_remembered(state));
        self.lanes.extend(lately.map(|(lane, state)| (lane, unseen(state))));
    }

    /// Somebody has announced a command of this lane, to every worker that serves it.
    ///
    /// Who has been too late several times in a row hesitates, at random up to `hesitation`, so that a crowd of idle
    /// workers does not ask the database all at once, and one look serves several announcements. Who takes something
    /// does not hesitate any more: of many there is always one that looks at once, and when it has no room the first of
    /// the others comes soon.
    pub(crate) fn announced(&mut self, lane: &Lane, due: Instant, hesitation: Duration) {
        let mut look = due;
        if let Some(state) = self.lanes.get_mut(lane).filter(|state| state.misses >= BAD_LUCK) {
            if state.announced && state.wanted.is_some_and(|wanted| wanted <= due + hesitation) {
                state.hinted = Some(Instant::now());
                return; // the same look serves this one
            }
            look += hesitation.mul_f64(fastrand::f64());
        }
        self.hint(lane.clone(), look);
        if let Some(state) = self.lanes.get_mut(lane) {
            state.announced = true;
        }
    }

    /// The lane is to be looked at.
    pub(crate) fn hint(&mut self, lane: Lane, due: Instant) {
        let unknown = || State { wanted: Some(due), ..State::new(Instant::now()) };
        let state = self.lanes.entry(lane).or_insert_with(unknown);
        state.wanted = soonest(state.wanted, Some(due));
        state.hinted = Some(Instant::now());
        // What is hinted at may lie before it.
        state.head = None;
    }

    /// Starts, or starts again, to look out for commands whose transaction may commit at any time.
    pub(crate) fn arm(&mut self, lane: Lane, commands: HashSet<CommandId>) {
        let now = Instant::now();
        self.armed(lane, now).unseen.extend(commands.into_iter().map(|id| (id, now)));
    }

    fn armed(&mut self, lane: Lane, now: Instant) -> &mut Armed {
        let fresh = || Armed { unseen: HashMap::new(), until: now, next: now + FIRST_LOOK, step: FIRST_LOOK };
        let armed = self.armed.entry(lane).or_insert_with(fresh);
        // Sooner, never later: a crowd of appends must not push the look away for ever.
        (armed.next, armed.step) = (armed.next.min(now + FIRST_LOOK), FIRST_LOOK);
        armed
    }

    /// These commands were claimed: nothing has to be looked out for on their behalf.
    pub(crate) fn saw(&mut self, lane: &Lane, claimed: impl Iterator<Item = CommandId>) {
        if let Some(armed) = self.armed.get_mut(lane) {
            for id in claimed {
                armed.unseen.remove(&id);
            }
            if armed.is_over(Instant::now()) {
                self.armed.remove(lane);
            }
        }
    }

    /// The lane had a command just now: others of a steady load follow soon, and nobody announces them.
    pub(crate) fn expect_more(&mut self, lane: Lane) {
        let now = Instant::now();
        self.armed(lane, now).until = now + EXPECT_MORE;
    }

    /// The claim to make next: of the lanes that are due and whose queue has `room`, from the one with the highest
    /// priority, then the one that has waited longest; as many commands as there is room for, or fewer if they are large.
    ///
    /// The claim counts as under way until [`took`](Self::took) or [`failed`](Self::failed).
    pub(crate) fn pick(&mut self, mut room: impl FnMut(&str) -> usize) -> Option<Pick> {
        let now = Instant::now();
        self.look_at_armed(now);
        let mut best: Option<(&Lane, Instant, usize)> = None;
        for (lane, state) in &self.lanes {
            let Some(due) = state.due().filter(|due| *due <= now) else { continue };
            if state.claims > 0 && state.may_look_from_start(now) {
                // What is under way ends first: two claims at once would otherwise put the look off for ever.
                continue;
            }
            let better = best.is_none_or(|(other, other_due, _)| {
                (other.priority, std::cmp::Reverse(other_due)) < (lane.priority, std::cmp::Reverse(due))
            });
            if better {
                let room = room(&lane.queue);
                if room > 0 {
                    // Whether there is room does not depend on the size: a lane of large commands would otherwise wait
                    // for as long as one of small ones keeps the queue full.
                    best = Some((lane, due, room.min(state.portion())));
                }
            }
        }
        let (lane, _, room) = best?;
        let lane = lane.clone();
        let state = self.lanes.get_mut(&lane)?;
        // Nobody knows better than the survey only as long as nothing has been claimed since.
        let head = state.head.take().filter(|_| state.reached.is_none());
        let after = state.reached.filter(|_| !state.may_look_from_start(now));
        let from_start = after.is_none();
        if from_start {
            state.looked = Some((now, Duration::ZERO));
        }
        state.wanted = state.wanted.filter(|wanted| *wanted > now);
        state.claims += 1;
        state.turn = now;
        let announced = std::mem::take(&mut state.announced);
        Some(Pick { lane, after: after.or(head).unwrap_or(FROM_START), from_start, room, announced })
    }

    /// Lanes that are due but were left out because their queue has no room.
    pub(crate) fn waiting_for_room(&self) -> Vec<&str> {
        let now = Instant::now();
        let due = self.lanes.iter().filter(|(_, state)| state.due().is_some_and(|due| due <= now));
        let mut queues: Vec<&str> = due.map(|(lane, _)| lane.queue.as_str()).collect();
        queues.sort_unstable();
        queues.dedup();
        queues
    }

    /// Commands of the lane have brought so many bytes. What was heavier is forgotten little by little.
    pub(crate) fn weighed(&mut self, lane: &Lane, count: usize, bytes: usize) {
        if let Some(state) = self.lanes.get_mut(lane) {
            let before = state.weight.unwrap_or_default();
            state.weight = Some((bytes / count.max(1)).max(before - before / 8));
        }
    }

    /// A claim took so many commands, the last one due at `last`. `true`: the lane has nothing more that is due, and it
    /// is to be asked when the next one is.
    pub(crate) fn took(&mut self, pick: &Pick, count: usize, last: Option<Timestamp>) -> bool {
        let now = Instant::now();
        let Some(state) = self.lanes.get_mut(&pick.lane) else { return true };
        state.claims = state.claims.saturating_sub(1);
        let from_start = pick.from_start;
        if let (true, Some((since, cost))) = (from_start, &mut state.looked) {
            *cost = now.duration_since(*since).min(LONGEST_COST);
        }
        state.misses = if count > 0 { 0 } else { state.misses.saturating_add(u32::from(pick.announced)) };
        state.streak = count >= pick.room;
        // Only what a full look from the start has found may lie before, with more behind it. Of two claims at once the
        // later answer may be that of the earlier one.
        state.reached = if state.streak && from_start { last } else { state.reached.max(last) };
        if !state.streak && !from_start {
            let look = state.next_look_from_start().map_or(now, |next| next.max(now));
            state.wanted = soonest(state.wanted, Some(look));
        }
        let is_empty = !state.streak && from_start;
        let ask = is_empty && (count > 0 || !state.looked_ahead);
        state.looked_ahead = is_empty || (count == 0 && state.looked_ahead);
        ask
    }

    /// A claim failed; what it would have found is still to be looked for.
    pub(crate) fn failed(&mut self, pick: &Pick) {
        if let Some(state) = self.lanes.get_mut(&pick.lane) {
            *state = State { claims: state.claims.saturating_sub(1), ..State::new(Instant::now()) };
        }
    }

    /// No claim is under way: what those that were would have found is still to be looked for.
    pub(crate) fn all_failed(&mut self) {
        for state in self.lanes.values_mut().filter(|state| state.claims > 0) {
            *state = State::new(Instant::now());
        }
    }

    /// When the next lane is due, if one is known to be. Lanes that are due already wait for room; the time of an armed
    /// one may have passed while something else was awaited.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        let now = Instant::now();
        let due = self.lanes.values().filter_map(State::due).filter(|due| *due > now);
        due.chain(self.armed.values().map(|armed| armed.next)).min()
    }

    /// Armed lanes are due at 5, 10, 20 … ms after the append, until its commands are seen or a minute has passed.
    fn look_at_armed(&mut self, now: Instant) {
        let mut due = Vec::new();
        self.armed.retain(|lane, armed| {
            if armed.next <= now {
                due.push(lane.clone());
                armed.step = (armed.step * 2).min(LONGEST_LOOK);
                armed.next = now + armed.step;
            }
            armed.unseen.retain(|_, since| since.elapsed() < STOP_LOOKING);
            !armed.is_over(now)
        });
        for lane in due {
            self.hint(lane, now);
        }
    }
}

impl Armed {
    fn is_over(&self, now: Instant) -> bool {
        self.unseen.is_empty() && self.until <= now
    }
}

impl State {
    /// A lane of which nothing is known, to be read now.
    const fn new(now: Instant) -> Self {
        Self {
            wanted: Some(now),
            hinted: Some(now),
            reached: None,
            head: None,
            streak: false,
            turn: now,
            looked: None,
            claims: 0,
            announced: false,
            misses: 0,
            looked_ahead: false,
            weight: None,
        }
    }

    fn is_hinted_since(&self, then: Instant) -> bool {
        self.hinted.is_some_and(|hinted| hinted >= then)
    }

    /// How many commands the next claim may take, by their size.
    fn portion(&self) -> usize {
        self.weight.map_or(UNWEIGHED, |weight| (CLAIM_BYTES / weight.max(1)).max(1))
    }

    /// When the next claim is to be made. A lane gets a second claim at once only in a streak: otherwise the first
    /// takes all there is.
    fn due(&self) -> Option<Instant> {
        if self.streak { Some(self.turn) } else { self.wanted.filter(|_| self.claims == 0) }
    }

    fn next_look_from_start(&self) -> Option<Instant> {
        self.looked.map(|(since, cost)| since + cost * WALK_COST)
    }

    /// Whether the lane may be read from its start now.
    fn may_look_from_start(&self, now: Instant) -> bool {
        let second = self.looked.is_none_or(|(since, _)| since + LOOK_FROM_START <= now);
        (second || !self.streak) && self.next_look_from_start().is_none_or(|next| next <= now)
    }
}

fn soonest(one: Option<Instant>, other: Option<Instant>) -> Option<Instant> {
    one.into_iter().chain(other).min()
}
