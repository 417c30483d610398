//! Which lanes have something to claim, and in which order.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use tokio::time::Instant;

use crate::command::CommandId;
use crate::instant::Timestamp;
use crate::store::claim::{Head, Lane};

/// What the poller knows of the lanes that it serves. A guess, refreshed by each survey.
#[derive(Debug, Default)]
pub(crate) struct Lanes {
    lanes: HashMap<Lane, State>,
    armed: HashMap<Lane, Armed>,
}

#[derive(Debug, Clone, Copy)]
struct State {
    /// When the lane's next command is due; `None`: not before a signal or the next survey.
    due: Option<Instant>,
    /// Commands due before this were claimed in the current streak of full claims.
    after: Timestamp,
}

/// A lane that got a command inside of a transaction of this process.
#[derive(Debug, Clone)]
struct Armed {
    /// The commands that have not been seen, and when each was appended.
    unseen: HashMap<CommandId, Instant>,
    next: Instant,
    step: Duration,
}

/// From the start of the lane.
const FROM_START: Timestamp = Timestamp::from_micros(i64::MIN);

/// The first look after an append in a transaction; most commit at once.
const FIRST_LOOK: Duration = Duration::from_millis(5);
const LONGEST_LOOK: Duration = Duration::from_secs(1);
/// A transaction that takes longer is found by the poll.
const STOP_LOOKING: Duration = Duration::from_secs(60);

impl Lanes {
    /// Takes over what a survey has found; lanes that it did not find have nothing.
    pub(crate) fn learn(&mut self, heads: impl Iterator<Item = Head>) {
        let now = Instant::now();
        let mut lanes = HashMap::new();
        for head in heads {
            let wait = Duration::from_micros(u64::try_from(head.due_in_micros).unwrap_or(0));
            lanes.insert(head.lane, State { due: now.checked_add(wait), after: FROM_START });
        }
        self.lanes = lanes;
    }

    pub(crate) fn hint(&mut self, lane: Lane, due: Instant) {
        let state = self.lanes.entry(lane).or_insert(State { due: None, after: FROM_START });
        state.due = Some(state.due.map_or(due, |known| known.min(due)));
        state.after = FROM_START;
    }

    /// Starts, or starts again, to look out for commands whose transaction may commit at any time.
    pub(crate) fn arm(&mut self, lane: Lane, commands: HashSet<CommandId>) {
        let now = Instant::now();
        let fresh = || Armed { unseen: HashMap::new(), next: now + FIRST_LOOK, step: FIRST_LOOK };
        let armed = self.armed.entry(lane).or_insert_with(fresh);
        armed.unseen.extend(commands.into_iter().map(|id| (id, now)));
        // Sooner, never later: a crowd of appends must not push the look away for ever.
        (armed.next, armed.step) = (armed.next.min(now + FIRST_LOOK), FIRST_LOOK);
    }

    /// These commands were claimed: nothing has to be looked out for on their behalf.
    pub(crate) fn saw(&mut self, lane: &Lane, claimed: impl Iterator<Item = CommandId>) {
        if let Some(armed) = self.armed.get_mut(lane) {
            for id in claimed {
                armed.unseen.remove(&id);
            }
            if armed.unseen.is_empty() {
                self.armed.remove(lane);
            }
        }
    }

    /// The lane to claim from next: of those that are due and have `room`, the one with the highest priority, then the
    /// one that has waited longest.
    pub(crate) fn pick(&mut self, mut room: impl FnMut(&str) -> usize) -> Option<(Lane, Timestamp, usize)> {
        let now = Instant::now();
        self.look_at_armed(now);
        let mut best: Option<(&Lane, &State, usize)> = None;
        for (lane, state) in &self.lanes {
            let Some(due) = state.due.filter(|due| *due <= now) else {
                continue;
            };
            let better = best.is_none_or(|(other, other_state, _)| {
                (other.priority, std::cmp::Reverse(other_state.due)) < (lane.priority, std::cmp::Reverse(Some(due)))
            });
            if better {
                let room = room(&lane.queue);
                if room > 0 {
                    best = Some((lane, state, room));
                }
            }
        }
        best.map(|(lane, state, room)| (lane.clone(), state.after, room))
    }

    /// Lanes that are due but were left out because their queue has no room.
    pub(crate) fn waiting_for_room(&self) -> Vec<&str> {
        let now = Instant::now();
        let due = self.lanes.iter().filter(|(_, state)| state.due.is_some_and(|due| due <= now));
        let mut queues: Vec<&str> = due.map(|(lane, _)| lane.queue.as_str()).collect();
        queues.sort_unstable();
        queues.dedup();
        queues
    }

    /// The claim took as many as it could: there may be more after `last`.
    pub(crate) fn took_all_it_could(&mut self, lane: &Lane, last: Timestamp) {
        if let Some(state) = self.lanes.get_mut(lane) {
            // Behind the other lanes of the same priority, so that they take turns.
            *state = State { due: Some(Instant::now()), after: last };
        }
    }

    /// The claim found fewer than it could have taken.
    pub(crate) fn ran_dry(&mut self, lane: &Lane) {
        if let Some(state) = self.lanes.get_mut(lane) {
            *state = State { due: None, after: FROM_START };
        }
    }

    /// When the next lane is due, if one is known to be.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        let now = Instant::now();
        let due = self.lanes.values().filter_map(|state| state.due).filter(|due| *due > now);
        due.chain(self.armed.values().map(|armed| armed.next)).filter(|due| *due > now).min()
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
            !armed.unseen.is_empty()
        });
        for lane in due {
            self.hint(lane, now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lane(key: &str, priority: i16) -> Lane {
        Lane { queue: "default".to_owned(), key: key.to_owned(), priority }
    }

    fn head(key: &str, priority: i16, due_in_micros: i64) -> Head {
        Head { lane: lane(key, priority), due_in_micros }
    }

    #[test]
    fn a_larger_priority_goes_first_and_what_is_not_due_goes_not_at_all() {
        let mut lanes = Lanes::default();
        lanes.learn([head("a", 0, -5), head("b", 7, 0), head("c", 9, 60_000_000)].into_iter());
        let (picked, after, room) = lanes.pick(|_| 10).unwrap();
        assert_eq!((picked, after, room), (lane("b", 7), FROM_START, 10));
        lanes.ran_dry(&lane("b", 7));
        assert_eq!(lanes.pick(|_| 10).unwrap().0, lane("a", 0));
        lanes.ran_dry(&lane("a", 0));
        assert!(lanes.pick(|_| 10).is_none());
        assert!(lanes.next_due().is_some());
    }

    #[test]
    fn lanes_of_one_priority_take_turns() {
        let mut lanes = Lanes::default();
        lanes.learn([head("a", 0, -5), head("b", 0, -5)].into_iter());
        let first = lanes.pick(|_| 1).unwrap().0;
        lanes.took_all_it_could(&first, Timestamp::from_micros(3));
        let second = lanes.pick(|_| 1).unwrap().0;
        assert_ne!(first, second);
        lanes.took_all_it_could(&second, Timestamp::from_micros(4));
        assert_eq!(lanes.pick(|_| 1).unwrap(), (first, Timestamp::from_micros(3), 1));
    }

    #[test]
    fn an_armed_lane_is_looked_at_until_its_own_command_is_seen() {
        let mut lanes = Lanes::default();
        let (ours, other) = (CommandId::new(), CommandId::new());
        lanes.arm(lane("a", 0), HashSet::from([ours]));
        lanes.saw(&lane("a", 0), std::iter::once(other));
        lanes.ran_dry(&lane("a", 0));
        assert!(lanes.next_due().is_some());
        lanes.saw(&lane("a", 0), std::iter::once(ours));
        assert!(lanes.next_due().is_none());
    }

    #[test]
    fn a_full_queue_does_not_hide_another() {
        let mut lanes = Lanes::default();
        let other = Lane { queue: "mail".to_owned(), ..lane("a", 0) };
        lanes.learn([head("a", 9, 0), Head { lane: other.clone(), due_in_micros: 0 }].into_iter());
        assert_eq!(lanes.pick(|queue| usize::from(queue == "mail")).unwrap().0, other);
        assert_eq!(lanes.waiting_for_room(), ["default", "mail"]);
    }
}
