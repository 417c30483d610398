//! Which lanes have something to claim, and in which order.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use tokio::time::Instant;

use crate::command::CommandId;
use crate::instant::Timestamp;
use crate::store::claim::{Head, Lane};

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
/// How much longer than such a look the time between two of them is at least.
const LOOK_COST: u32 = 20;
/// A look that took longer has waited for something else than index entries.
const LONGEST_COST: Duration = Duration::from_millis(500);

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
    /// Takes over what a survey has found; lanes that it did not find have nothing.
    pub(crate) fn learn(&mut self, heads: impl Iterator<Item = Head>) {
        let now = Instant::now();
        let mut known = std::mem::take(&mut self.lanes);
        for head in heads {
            let wait = Duration::from_micros(u64::try_from(head.due_in_micros).unwrap_or(0));
            let state = known.remove(&head.lane).unwrap_or(State::new(now));
            let (wanted, first) = (now.checked_add(wait), Some(head.due_at).filter(|_| state.reached.is_none()));
            self.lanes.insert(head.lane, State { wanted, head: first, looked_ahead: false, ..state });
        }
        // Where it has come to is worth knowing when the lane gets its next command.
        let lately = known.into_iter().filter(|(_, state)| state.claims > 0 || state.turn + REMEMBER > now);
        self.lanes.extend(lately.map(|(lane, state)| (lane, State { wanted: None, head: None, ..state })));
    }

    /// Somebody has announced a command of this lane, to every worker that serves it.
    ///
    /// Who has been too late several times in a row hesitates, at random up to `hesitation`, so that a crowd of idle
    /// workers does not ask the database all at once, and one look serves several announcements. Who takes something
    /// does not hesitate any more: of many there is always one that looks at once, and when it has no room the first of
    /// the others comes soon.
    pub(crate) fn announced(&mut self, lane: &Lane, due: Instant, hesitation: Duration) {
        let mut look = due;
        if let Some(state) = self.lanes.get(lane).filter(|state| state.misses >= BAD_LUCK) {
            if state.announced && state.wanted.is_some_and(|wanted| wanted <= due + hesitation) {
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
        state.wanted = Some(state.wanted.map_or(due, |known| known.min(due)));
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

    /// The claim to make next: of the lanes that are due and whose queue has `room`, from the one with the highest priority,
    /// then the one that has waited longest; as many commands as there is room for, or fewer if they are large.
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
        let (head, after) = (state.head.take(), state.reached.filter(|_| !state.may_look_from_start(now)));
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
            state.wanted = Some(state.wanted.map_or(look, |wanted| wanted.min(look)));
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
        self.looked.map(|(since, cost)| since + cost * LOOK_COST)
    }

    /// Whether the lane may be read from its start now.
    fn may_look_from_start(&self, now: Instant) -> bool {
        let second = self.looked.is_none_or(|(since, _)| since + LOOK_FROM_START <= now);
        (second || !self.streak) && self.next_look_from_start().is_none_or(|next| next <= now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lane(key: &str, priority: i16) -> Lane {
        Lane { queue: "default".to_owned(), key: key.to_owned(), priority }
    }

    fn head(key: &str, priority: i16, due_in_micros: i64) -> Head {
        Head { lane: lane(key, priority), due_at: Timestamp::from_micros(due_in_micros), due_in_micros }
    }

    fn picked(lanes: &mut Lanes, room: usize) -> Option<(Lane, Timestamp)> {
        lanes.pick(|_| room).map(|pick| (pick.lane, pick.after))
    }

    /// A claim of everything there is room for.
    fn full(lanes: &mut Lanes, last: i64) -> Pick {
        let pick = lanes.pick(|_| 1).unwrap();
        lanes.took(&pick, 1, Some(Timestamp::from_micros(last)));
        pick
    }

    /// A claim that finds nothing.
    fn empty(lanes: &mut Lanes) -> Pick {
        let pick = lanes.pick(|_| 1).unwrap();
        lanes.took(&pick, 0, None);
        pick
    }

    #[test]
    fn a_larger_priority_goes_first_and_what_is_not_due_goes_not_at_all() {
        let mut lanes = Lanes::default();
        lanes.learn([head("a", 0, -5), head("b", 7, 0), head("c", 9, 60_000_000)].into_iter());
        assert_eq!(empty(&mut lanes).lane, lane("b", 7));
        assert_eq!(empty(&mut lanes).lane, lane("a", 0));
        assert!(lanes.pick(|_| 10).is_none());
        assert!(lanes.next_due().is_some());
    }

    #[test]
    fn lanes_of_one_priority_take_turns_and_each_goes_on_where_it_was() {
        let mut lanes = Lanes::default();
        lanes.learn([head("a", 0, -5), head("b", 0, -5)].into_iter());
        let first = full(&mut lanes, 3).lane;
        let second = full(&mut lanes, 4).lane;
        assert_ne!(first, second);
        assert_eq!(picked(&mut lanes, 1), Some((first, Timestamp::from_micros(3))));
        assert_eq!(picked(&mut lanes, 1), Some((second, Timestamp::from_micros(4))));
    }

    #[test]
    fn only_a_streak_is_claimed_from_twice_at_once() {
        let mut lanes = Lanes::default();
        lanes.learn([head("a", 0, 0)].into_iter());
        let first = lanes.pick(|_| 1).unwrap();
        assert!(lanes.pick(|_| 1).is_none());
        lanes.took(&first, 1, Some(Timestamp::from_micros(1)));
        let (second, third) = (lanes.pick(|_| 1).unwrap(), lanes.pick(|_| 1).unwrap());
        lanes.took(&third, 1, Some(Timestamp::from_micros(3)));
        lanes.took(&second, 1, Some(Timestamp::from_micros(2)));
        assert_eq!(picked(&mut lanes, 1), Some((lane("a", 0), Timestamp::from_micros(3))));
    }

    #[tokio::test(start_paused = true)]
    async fn two_claims_at_once_do_not_put_the_look_from_the_start_off_for_ever() {
        let mut lanes = Lanes::default();
        lanes.learn([head("a", 0, 0)].into_iter());
        let (mut under_way, mut looks) = (std::collections::VecDeque::new(), 0);
        for claim in 0..1_000 {
            while under_way.len() < 2
                && let Some(pick) = lanes.pick(|_| 1)
            {
                looks += usize::from(pick.from_start);
                under_way.push_back(pick);
            }
            // Each is answered 10 ms after the one before it.
            tokio::time::advance(Duration::from_millis(10)).await;
            let answered = under_way.pop_front().unwrap();
            lanes.took(&answered, 1, Some(Timestamp::from_micros(claim)));
        }
        assert!((9..=11).contains(&looks), "{looks} looks in ten seconds");
    }

    #[test]
    fn a_streak_ends_with_a_look_from_the_start() {
        let mut lanes = Lanes::default();
        lanes.learn([head("a", 0, 0)].into_iter());
        full(&mut lanes, 5);
        let pick = lanes.pick(|_| 1).unwrap();
        assert_eq!(pick.after, Timestamp::from_micros(5));
        assert!(!lanes.took(&pick, 0, None), "something may have come to lie before");
        let state = lanes.lanes[&lane("a", 0)];
        assert!(state.wanted.is_some() && !state.streak);
    }

    /// Dead index entries pile up between two vacuums: a lane that is never full must not walk past them all each time.
    #[tokio::test(start_paused = true)]
    async fn a_busy_lane_is_read_from_its_start_as_seldom_as_that_is_dear() {
        let mut lanes = Lanes::default();
        lanes.learn([head("a", 0, 0)].into_iter());
        let mut looks = 0;
        for claim in 0..1_000 {
            lanes.hint(lane("a", 0), Instant::now());
            let pick = lanes.pick(|_| 10).unwrap();
            let from_start = pick.from_start;
            looks += usize::from(from_start);
            tokio::time::advance(Duration::from_millis(if from_start { 50 } else { 5 })).await;
            assert_eq!(lanes.took(&pick, 1, Some(Timestamp::from_micros(claim))), from_start);
        }
        assert!((3..=6).contains(&looks), "{looks} looks of 50 ms in five seconds");
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(picked(&mut lanes, 1), Some((lane("a", 0), FROM_START)), "and once more when all is quiet");
    }

    /// A new process in front of a million dead index entries has walked past them once.
    #[test]
    fn a_first_look_begins_where_the_survey_has_found_something() {
        let mut lanes = Lanes::default();
        lanes.learn([head("a", 0, -5)].into_iter());
        let pick = lanes.pick(|_| 2).unwrap();
        assert_eq!(pick.after, Timestamp::from_micros(-5));
        assert!(lanes.took(&pick, 1, Some(Timestamp::from_micros(-5))), "as good as a look from the start");
    }

    #[test]
    fn a_hint_after_a_survey_is_looked_for_from_the_start() {
        let mut lanes = Lanes::default();
        lanes.learn([head("a", 0, 60_000_000)].into_iter());
        lanes.hint(lane("a", 0), Instant::now());
        assert_eq!(picked(&mut lanes, 1), Some((lane("a", 0), FROM_START)), "it may be due before the head");
    }

    #[test]
    fn a_survey_and_a_hint_do_not_send_a_streak_back_to_its_start() {
        let mut lanes = Lanes::default();
        lanes.learn([head("a", 0, 0)].into_iter());
        full(&mut lanes, 5);
        lanes.learn([head("a", 0, 0)].into_iter());
        lanes.hint(lane("a", 0), Instant::now());
        assert_eq!(picked(&mut lanes, 1), Some((lane("a", 0), Timestamp::from_micros(5))));
    }

    #[test]
    fn a_hint_that_comes_during_a_claim_is_not_forgotten_when_the_claim_finds_nothing() {
        let mut lanes = Lanes::default();
        lanes.learn([head("a", 0, 0)].into_iter());
        let pick = lanes.pick(|_| 1).unwrap();
        lanes.hint(lane("a", 0), Instant::now());
        assert!(lanes.pick(|_| 1).is_none());
        assert!(lanes.took(&pick, 0, None));
        assert_eq!(empty(&mut lanes).lane, lane("a", 0));
        assert!(lanes.pick(|_| 1).is_none());
    }

    #[test]
    fn a_failed_claim_is_made_again_from_the_start() {
        let mut lanes = Lanes::default();
        lanes.learn([head("a", 0, 0)].into_iter());
        full(&mut lanes, 5);
        let pick = lanes.pick(|_| 1).unwrap();
        lanes.failed(&pick);
        assert_eq!(picked(&mut lanes, 1), Some((lane("a", 0), FROM_START)));
    }

    #[test]
    fn an_armed_lane_is_looked_at_until_its_own_command_is_seen() {
        let mut lanes = Lanes::default();
        let (ours, other) = (CommandId::new(), CommandId::new());
        lanes.arm(lane("a", 0), HashSet::from([ours]));
        lanes.saw(&lane("a", 0), std::iter::once(other));
        assert!(lanes.next_due().is_some());
        lanes.saw(&lane("a", 0), std::iter::once(ours));
        assert!(lanes.next_due().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_lane_that_had_a_command_is_looked_at_more_and_more_seldom_for_a_second() {
        let mut lanes = Lanes::default();
        lanes.expect_more(lane("a", 0));
        let (begun, mut looks) = (Instant::now(), 0);
        while let Some(due) = lanes.next_due() {
            tokio::time::advance(due - Instant::now()).await;
            assert_eq!(empty(&mut lanes).lane, lane("a", 0));
            looks += 1;
        }
        assert!((7..=9).contains(&looks) && begun.elapsed() < Duration::from_secs(2), "{looks} looks");
    }

    #[tokio::test(start_paused = true)]
    async fn a_look_whose_time_has_passed_meanwhile_is_not_put_off_to_the_poll() {
        let mut lanes = Lanes::default();
        lanes.expect_more(lane("a", 0));
        tokio::time::advance(FIRST_LOOK * 2).await;
        assert!(lanes.next_due().is_some_and(|due| due <= Instant::now()));
        assert_eq!(empty(&mut lanes).lane, lane("a", 0));
        assert!(lanes.next_due().is_some_and(|due| due > Instant::now()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_worker_that_is_always_too_late_hesitates_until_it_takes_something() {
        let (mut lanes, hesitation) = (Lanes::default(), Duration::from_secs(1));
        let wait = |lanes: &mut Lanes| {
            lanes.announced(&lane("a", 0), Instant::now(), hesitation);
            lanes.next_due().map_or(Duration::ZERO, |due| due - Instant::now())
        };
        for _ in 0..BAD_LUCK {
            assert_eq!(wait(&mut lanes), Duration::ZERO);
            empty(&mut lanes);
        }
        let mut waits = Vec::new();
        for _ in 0..40 {
            let waited = wait(&mut lanes);
            waits.push(waited);
            tokio::time::advance(waited).await;
            empty(&mut lanes);
        }
        assert!(waits.iter().all(|wait| *wait < hesitation), "{waits:?}");
        assert!(waits.iter().any(|wait| *wait > hesitation / 4), "{waits:?}");
        lanes.announced(&lane("a", 0), Instant::now(), Duration::ZERO);
        let pick = lanes.pick(|_| 2).unwrap();
        lanes.took(&pick, 1, Some(Timestamp::from_micros(1)));
        assert_eq!(wait(&mut lanes), Duration::ZERO);
    }

    #[test]
    fn a_full_queue_does_not_hide_another() {
        let mut lanes = Lanes::default();
        let other = Lane { queue: "mail".to_owned(), ..lane("a", 0) };
        lanes.learn([head("a", 9, 0), Head { lane: other.clone(), ..head("b", 0, 0) }].into_iter());
        assert_eq!(lanes.waiting_for_room(), ["default", "mail"]);
        assert_eq!(lanes.pick(|queue| usize::from(queue == "mail")).unwrap().lane, other);
    }

    #[test]
    fn a_claim_of_large_payloads_takes_few() {
        let mut lanes = Lanes::default();
        lanes.learn([head("a", 0, 0)].into_iter());
        let mut claim = |bytes: usize| {
            let pick = lanes.pick(|_| usize::MAX).unwrap();
            lanes.weighed(&pick.lane, pick.room, pick.room * bytes);
            lanes.took(&pick, pick.room, Some(Timestamp::from_micros(1)));
            pick.room
        };
        assert_eq!(claim(1024 * 1024), UNWEIGHED, "nobody knows what they weigh");
        assert_eq!(claim(1024 * 1024), 4);
        assert!((4..10).contains(&claim(100)), "the next ones may be large again");
        for _ in 0..100 {
            claim(100);
        }
        assert!(claim(100) > 10_000);
        assert!(claim(CLAIM_BYTES * 2) > 10_000);
        assert_eq!(claim(CLAIM_BYTES * 2), 1, "one at least");
    }
}
