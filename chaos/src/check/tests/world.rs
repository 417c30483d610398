//! A sound history, and ways to spoil it.

use orchestratum_core::Timestamp;
use orchestratum_core::entity::{attempt, command, ended, live};
use uuid::Uuid;

use crate::check::history::History;
use crate::check::stored::{Command, Stored};
use crate::check::{judged, judged_by_what_is_kept, tried};
use crate::job::{AFTER_FAILURE, AFTER_SUCCESS, Job};
use crate::ledger::{End, Entry, Record, Refused, Shape};

/// The upper half of the numbers of the one producer.
pub(super) const SERIAL: u64 = 1 << 32;
pub(super) const SECOND: u64 = 1_000_000_000;
/// By the database's clock, behind all that the ledgers have.
const LATER: Timestamp = Timestamp::from_micros(100_000_000);

/// A command of the sound history; its number is behind the producer's serial.
#[derive(Clone, Copy)]
#[repr(u8)]
pub(super) enum The {
    Quick = 1,
    Effect,
    Within,
    Chained,
    Canceled,
    FirstUnique,
    SecondUnique,
    Failing,
    Deadly,
    Slept,
    AfterChained,
    AfterCanceled,
    AfterFailing,
}

impl The {
    pub(super) const fn id(self) -> Uuid {
        Uuid::from_u128(self as u128)
    }
}

#[derive(Default)]
pub(super) struct World {
    pub(super) stored: Stored,
    pub(super) leased: u64,
    records: Vec<Record>,
}

impl World {
    /// All kinds of commands, as they should go.
    pub(super) fn sound() -> Self {
        let mut world = Self::default();
        world.note(0, "p", Entry::Began { serial: 1 });
        world.append(The::Quick, "quick", Shape::Single).run("a", The::Quick, 1).end(The::Quick, "completed", 1);
        world.append(The::Effect, "effect", Shape::Single).run("a", The::Effect, 1).end(The::Effect, "completed", 1);
        world.stored.effects.insert(The::Effect.id(), 1);
        world.note(33, "a", Entry::Effected { id: The::Effect.id(), attempt: 1 });
        world.append(The::Within, "quick", Shape::Within).run("a", The::Within, 1).end(The::Within, "completed", 1);
        world.stored.orders.insert(number(The::Within));
        world.append(The::Chained, "quick", Shape::Chained).run("a", The::Chained, 1).end(The::Chained, "completed", 1);
        world.follow_up(34, The::AfterChained, The::Chained, AFTER_SUCCESS);
        world.append(The::Canceled, "quick", Shape::Chained);
        world.note(20, "p", Entry::CancelAsked { id: The::Canceled.id() });
        world.note(21, "p", Entry::Canceled { id: The::Canceled.id(), at_once: true, attempt: Some(0) });
        world.end(The::Canceled, "canceled", 0).follow_up(34, The::AfterCanceled, The::Canceled, AFTER_FAILURE);
        for the in [The::FirstUnique, The::SecondUnique] {
            world.append(the, "quick", Shape::Unique).run("a", the, 1).end(the, "completed", 1);
            world.of(the).row.unique_key = Some("key".to_owned());
        }
        world.dates(The::FirstUnique, 1, 40).dates(The::SecondUnique, 40, 50);
        world.append(The::Failing, "failing", Shape::Chained);
        for attempt in 1..=3 {
            world.execute("a", The::Failing, attempt, End::Failed).fail(The::Failing, attempt, "error");
        }
        world.of(The::Failing).row.retry_count = 2;
        world.end(The::Failing, "failed", 3).follow_up(38, The::AfterFailing, The::Failing, AFTER_FAILURE);
        world.append(The::Deadly, "deadly", Shape::Single).start(30, "dying", The::Deadly, 1);
        world.note(31, "rig", Entry::Died { process: "dying".to_owned(), aborted: true });
        world.fail(The::Deadly, 1, "lost_lease").run("a", The::Deadly, 2).end(The::Deadly, "completed", 2);
        world.append(The::Slept, "slow", Shape::Delayed).start(40, "b", The::Slept, 1).start(50, "a", The::Slept, 2);
        world.note(41, "rig", Entry::Paused { process: "b".to_owned() });
        world.note(51, "rig", Entry::Resumed { process: "b".to_owned() });
        world.note(52, "b", Entry::Told { id: The::Slept.id(), attempt: 1 });
        world.finish(53, "a", The::Slept, 2, End::Succeeded);
        world.fail(The::Slept, 1, "lost_lease").end(The::Slept, "completed", 2);
        world.note(60, "p", Entry::RolledBack { number: SERIAL + 100, id: Uuid::from_u128(100) });
        world.note(60, "p", Entry::Unsure { number: SERIAL + 101, shape: Shape::Within, error: String::new() });
        world.note(
            61,
            "p",
            Entry::Appended {
                number: SERIAL + 102,
                id: The::FirstUnique.id(),
                shape: Shape::Unique,
                refused: refused("key", 0),
            },
        );
        world.note(62, "rig", Entry::Left { process: "p".to_owned() });
        world
    }

    pub(super) fn note(&mut self, second: u64, process: &str, entry: Entry) -> &mut Self {
        self.records.push(Record { at: second * SECOND, process: process.into(), entry });
        self
    }

    pub(super) fn append(&mut self, the: The, key: &str, shape: Shape) -> &mut Self {
        self.store(the.id(), number(the), key, shape);
        self.note(1, "p", Entry::Appended { number: number(the), id: the.id(), shape, refused: None })
    }

    pub(super) fn store(&mut self, id: Uuid, number: u64, key: &str, shape: Shape) -> &mut Self {
        let row = command::Model {
            id,
            queue: "default".to_owned(),
            key: key.to_owned(),
            priority: 0,
            payload: String::new(),
            timeout_ms: 60_000,
            retry_count: 50,
            retry_policy: None,
            follow_ups: None,
            unique_key: None,
            created_at: Timestamp::from_micros(1),
        };
        let job = Job { number, shape, not_before: SECOND, batch: None };
        self.stored.commands.insert(id, Command { row, job, live: None, ended: None, attempts: Vec::new() });
        self
    }

    fn follow_up(&mut self, second: u64, the: The, parent: The, key: &str) -> &mut Self {
        self.store(the.id(), number(parent), key, Shape::Chained).start(second, "a", the, 1);
        self.finish(second + 1, "a", the, 1, End::Succeeded).end(the, "completed", 1)
    }

    pub(super) fn of(&mut self, the: The) -> &mut Command {
        self.stored.commands.get_mut(&the.id()).expect("it is in the sound history")
    }

    pub(super) fn start(&mut self, second: u64, process: &str, the: The, attempt: u32) -> &mut Self {
        self.note(second, process, Entry::Started { id: the.id(), attempt, is_deaf: false })
    }

    pub(super) fn finish(&mut self, second: u64, process: &str, the: The, attempt: u32, end: End) -> &mut Self {
        self.note(second, process, Entry::Ended { id: the.id(), attempt, end })
    }

    /// An attempt of a second that succeeds.
    pub(super) fn run(&mut self, process: &str, the: The, attempt: u32) -> &mut Self {
        self.execute(process, the, attempt, End::Succeeded)
    }

    fn execute(&mut self, process: &str, the: The, attempt: u32, end: End) -> &mut Self {
        let second = 30 + 2 * u64::from(attempt);
        self.start(second, process, the, attempt).finish(second + 1, process, the, attempt, end)
    }

    pub(super) fn end(&mut self, the: The, state: &str, attempt: i32) -> &mut Self {
        self.of(the).ended = Some(ended::Model {
            id: the.id(),
            state: state.to_owned(),
            attempt,
            instance: None,
            finished_at: LATER,
            duration_ms: None,
            output: None,
            error: None,
        });
        self
    }

    /// The seconds of its creation and its end, by the database's clock.
    pub(super) fn dates(&mut self, the: The, created: i64, finished: i64) -> &mut Self {
        self.of(the).row.created_at = Timestamp::from_micros(created * 1_000_000);
        self.of(the).ended.as_mut().expect("it has ended").finished_at = Timestamp::from_micros(finished * 1_000_000);
        self
    }

    pub(super) fn fail(&mut self, the: The, attempt: u32, kind: &str) -> &mut Self {
        let attempt = attempt::Model {
            command_id: the.id(),
            attempt: i32::try_from(attempt).expect("a small number"),
            kind: kind.to_owned(),
            error: String::new(),
            instance: None,
            ended_at: LATER,
        };
        self.of(the).attempts.push(attempt);
        self
    }

    pub(super) fn live(&mut self, the: The) -> &mut Self {
        self.of(the).live = Some(live::Model {
            id: the.id(),
            state: "running".to_owned(),
            queue: "default".to_owned(),
            key: "quick".to_owned(),
            priority: 0,
            run_at: Timestamp::from_micros(1),
            attempt: 1,
            failures: 0,
            losses: 0,
            instance: None,
            cancel_requested: false,
            unique_key: None,
        });
        self
    }

    /// Without the entries of which this is true.
    pub(super) fn forget(&mut self, is_forgotten: impl Fn(&Entry) -> bool) {
        self.records.retain(|record| !is_forgotten(&record.entry));
    }

    /// What is counted and was never done.
    pub(super) fn never_done(self) -> Vec<&'static str> {
        let counts = tried::noted(&self.records).into_iter().chain(tried::kept(&self.stored));
        counts.filter(|(_, count)| *count == 0).map(|(name, _)| name).collect()
    }

    /// The kinds of violations.
    pub(super) fn judged(mut self) -> Vec<&'static str> {
        self.records.sort_by_key(|record| record.at);
        judged(&self.stored, &History::of(&self.records, self.leased)).0.into_keys().collect()
    }

    /// The same from what a soak has.
    pub(super) fn judged_by_what_is_kept(mut self) -> Vec<&'static str> {
        self.records.sort_by_key(|record| record.at);
        let live: Vec<live::Model> = self.stored.commands.values().filter_map(|command| command.live.clone()).collect();
        let history = History::of(&self.records, 0);
        judged_by_what_is_kept(&live, &self.stored.effects, &history).0.into_keys().collect()
    }
}

pub(super) fn refused(unique_key: &str, asked: u64) -> Option<Refused> {
    Some(Refused { unique_key: unique_key.to_owned(), asked: asked * SECOND })
}

pub(super) const fn number(the: The) -> u64 {
    SERIAL + the as u64
}

pub(super) fn is_start_of(the: The, number: u32) -> impl Fn(&Entry) -> bool {
    move |entry| matches!(entry, Entry::Started { id, attempt, .. } if *id == the.id() && *attempt == number)
}
