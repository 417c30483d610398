//! A sound history, spoiled in one way after the other: each kind of violation is found, and nothing else.

use orchestratum_core::Timestamp;
use orchestratum_core::entity::{attempt, command, ended, live};
use uuid::Uuid;

use super::history::History;
use super::judged;
use super::stored::{Command, Stored};
use crate::job::{AFTER_FAILURE, AFTER_SUCCESS, Job};
use crate::ledger::{Entry, Record, Shape};

/// The upper half of the numbers of the one producer.
const SERIAL: u64 = 1 << 32;
const SECOND: u64 = 1_000_000_000;

/// A command of the sound history; its number is behind the producer's serial.
#[derive(Clone, Copy)]
#[repr(u8)]
enum The {
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
}

impl The {
    const fn id(self) -> Uuid {
        Uuid::from_u128(self as u128)
    }
}

#[derive(Default)]
struct World {
    stored: Stored,
    records: Vec<Record>,
}

impl World {
    /// All kinds of commands, as they should go.
    fn sound() -> Self {
        let mut world = Self::default();
        world.note(0, "p", Entry::Began { serial: 1 });
        world.append(The::Quick, "quick", Shape::Single).run("a", The::Quick, 1).end(The::Quick, "completed", 1);
        world.append(The::Effect, "effect", Shape::Single).run("a", The::Effect, 1).end(The::Effect, "completed", 1);
        world.stored.effects.insert(The::Effect.id(), 1);
        world.append(The::Within, "quick", Shape::Within).run("a", The::Within, 1).end(The::Within, "completed", 1);
        world.stored.orders.insert(number(The::Within));
        world.append(The::Chained, "quick", Shape::Chained).run("a", The::Chained, 1).end(The::Chained, "completed", 1);
        world.follow_up(The::AfterChained, The::Chained, AFTER_SUCCESS);
        world.append(The::Canceled, "quick", Shape::Chained);
        world.note(20, "p", Entry::CancelAsked { id: The::Canceled.id() });
        world.note(21, "p", Entry::Canceled { id: The::Canceled.id(), at_once: true, attempt: Some(0) });
        world.end(The::Canceled, "canceled", 0).follow_up(The::AfterCanceled, The::Canceled, AFTER_FAILURE);
        for the in [The::FirstUnique, The::SecondUnique] {
            world.append(the, "quick", Shape::Unique).run("a", the, 1).end(the, "completed", 1);
            world.of(the).row.unique_key = Some("key".to_owned());
        }
        world.dates(The::FirstUnique, 1, 2).dates(The::SecondUnique, 2, 3);
        world.append(The::Failing, "failing", Shape::Single);
        for attempt in 1..=3 {
            world.run("a", The::Failing, attempt).fail(The::Failing, attempt, "error");
        }
        world.of(The::Failing).row.retry_count = 2;
        world.end(The::Failing, "failed", 3);
        world.append(The::Deadly, "deadly", Shape::Single).start(30, "dying", The::Deadly, 1);
        world.note(31, "rig", Entry::Died { process: "dying".to_owned(), aborted: true });
        world.fail(The::Deadly, 1, "lost_lease").run("a", The::Deadly, 2).end(The::Deadly, "completed", 2);
        world.append(The::Slept, "slow", Shape::Delayed).start(40, "b", The::Slept, 1).start(50, "a", The::Slept, 2);
        world.note(41, "rig", Entry::Paused { process: "b".to_owned() });
        world.note(51, "rig", Entry::Resumed { process: "b".to_owned() });
        world.note(52, "b", Entry::Told { id: The::Slept.id(), attempt: 1 });
        world.note(53, "a", Entry::Ended { id: The::Slept.id(), attempt: 2 });
        world.fail(The::Slept, 1, "lost_lease").end(The::Slept, "completed", 2);
        world.note(60, "p", Entry::RolledBack { number: SERIAL + 100, id: Uuid::from_u128(100) });
        world.note(60, "p", Entry::Unsure { number: SERIAL + 101, shape: Shape::Within, error: String::new() });
        world.note(
            61,
            "p",
            Entry::Appended { number: SERIAL + 102, id: The::Quick.id(), is_new: false, shape: Shape::Unique },
        );
        world.note(62, "rig", Entry::Left { process: "p".to_owned() });
        world
    }

    fn note(&mut self, second: u64, process: &str, entry: Entry) -> &mut Self {
        self.records.push(Record { at: second * SECOND, process: process.into(), entry });
        self
    }

    fn append(&mut self, the: The, key: &str, shape: Shape) -> &mut Self {
        self.store(the.id(), number(the), key, shape);
        self.note(1, "p", Entry::Appended { number: number(the), id: the.id(), is_new: true, shape })
    }

    fn store(&mut self, id: Uuid, number: u64, key: &str, shape: Shape) -> &mut Self {
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
        let job = Job { number, shape, not_before: SECOND };
        self.stored.commands.insert(id, Command { row, job, live: None, ended: None, attempts: Vec::new() });
        self
    }

    fn follow_up(&mut self, the: The, parent: The, key: &str) -> &mut Self {
        self.store(the.id(), number(parent), key, Shape::Chained).run("a", the, 1).end(the, "completed", 1)
    }

    fn of(&mut self, the: The) -> &mut Command {
        self.stored.commands.get_mut(&the.id()).expect("it is in the sound history")
    }

    fn start(&mut self, second: u64, process: &str, the: The, attempt: u32) -> &mut Self {
        self.note(second, process, Entry::Started { id: the.id(), attempt, is_deaf: false })
    }

    /// An attempt of a second.
    fn run(&mut self, process: &str, the: The, attempt: u32) -> &mut Self {
        let second = 30 + 2 * u64::from(attempt);
        self.start(second, process, the, attempt);
        self.note(second + 1, process, Entry::Ended { id: the.id(), attempt })
    }

    fn end(&mut self, the: The, state: &str, attempt: i32) -> &mut Self {
        self.of(the).ended = Some(ended::Model {
            id: the.id(),
            state: state.to_owned(),
            attempt,
            instance: None,
            finished_at: Timestamp::from_micros(2),
            duration_ms: None,
            output: None,
            error: None,
        });
        self
    }

    /// Its creation and its end, by the database's clock.
    fn dates(&mut self, the: The, created: i64, finished: i64) -> &mut Self {
        self.of(the).row.created_at = Timestamp::from_micros(created);
        self.of(the).ended.as_mut().expect("it has ended").finished_at = Timestamp::from_micros(finished);
        self
    }

    fn fail(&mut self, the: The, attempt: u32, kind: &str) -> &mut Self {
        let attempt = attempt::Model {
            command_id: the.id(),
            attempt: i32::try_from(attempt).expect("a small number"),
            kind: kind.to_owned(),
            error: String::new(),
            instance: None,
            ended_at: Timestamp::from_micros(2),
        };
        self.of(the).attempts.push(attempt);
        self
    }

    fn live(&mut self, the: The) -> &mut Self {
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
    fn forget(&mut self, is_forgotten: impl Fn(&Entry) -> bool) {
        self.records.retain(|record| !is_forgotten(&record.entry));
    }

    /// The kinds of violations.
    fn judged(mut self) -> Vec<&'static str> {
        self.records.sort_by_key(|record| record.at);
        judged(&self.stored, &History::of(&self.records)).0.into_keys().collect()
    }
}

const fn number(the: The) -> u64 {
    SERIAL + the as u64
}

fn is_start_of(the: The, number: u32) -> impl Fn(&Entry) -> bool {
    move |entry| matches!(entry, Entry::Started { id, attempt, .. } if *id == the.id() && *attempt == number)
}

/// What a sound history is judged to be when it is spoiled so.
#[track_caller]
fn finds(kind: &str, spoil: impl FnOnce(&mut World)) {
    let mut world = World::sound();
    spoil(&mut world);
    assert_eq!(world.judged(), [kind]);
}

#[test]
fn a_sound_history_has_no_violation() {
    assert_eq!(World::sound().judged(), [""; 0]);
}

#[test]
fn a_command_is_live_or_ended_in_the_end() {
    finds("left live", |world| {
        world.live(The::Quick).of(The::Quick).ended = None;
    });
    finds("live and ended", |world| {
        world.live(The::Quick);
    });
    finds("neither live nor ended", |world| world.of(The::Quick).ended = None);
    finds("rows of no command", |world| world.stored.strays.push(Uuid::from_u128(100)));
}

#[test]
fn an_end_has_its_reason() {
    finds("ended as it should not", |world| {
        world.end(The::Quick, "failed", 1);
    });
    finds("ended as it should not", |world| {
        world.end(The::Failing, "completed", 3);
    });
    finds("ended as it should not", |world| world.forget(|entry| matches!(entry, Entry::CancelAsked { .. })));
    finds("ended as it should not", |world| {
        world.end(The::Quick, "canceled", 1);
    });
    finds("ended without having run", |world| world.forget(is_start_of(The::Quick, 1)));
    finds("ran on after its end", |world| {
        world.run("a", The::Quick, 2);
    });
}

#[test]
fn attempts_are_bounded() {
    finds("more attempts than allowed", |world| world.of(The::Failing).row.retry_count = 1);
    finds("more attempts than allowed", |world| {
        for attempt in 2..=7 {
            world.fail(The::Slept, attempt, "lost_lease");
        }
    });
    finds("failed as it cannot", |world| {
        world.run("a", The::Quick, 2).fail(The::Quick, 1, "error").end(The::Quick, "completed", 2);
    });
    finds("failed without having run", |world| world.forget(is_start_of(The::Failing, 2)));
}

#[test]
fn innocents_may_be_parked_and_the_bad_need_not() {
    let mut world = World::sound();
    for attempt in 1..=6 {
        world.fail(The::Quick, attempt, "lost_lease");
    }
    world.end(The::Quick, "failed", 6);
    assert_eq!(world.judged(), [""; 0]);
}

#[test]
fn effects_and_follow_ups_come_once() {
    finds("took effect wrongly", |world| world.stored.effects.clear());
    finds("took effect wrongly", |world| {
        world.stored.effects.insert(The::Effect.id(), 2);
    });
    finds("took effect wrongly", |world| {
        world.stored.effects.insert(Uuid::from_u128(100), 1);
    });
    finds("not followed up once", |world| world.of(The::AfterChained).row.key = AFTER_FAILURE.to_owned());
    finds("not followed up once", |world| world.of(The::AfterCanceled).row.key = AFTER_SUCCESS.to_owned());
    finds("not followed up once", |world| world.of(The::AfterChained).job.number = number(The::Quick));
    finds("not followed up once", |world| {
        world.stored.commands.remove(&The::AfterChained.id());
        world.forget(is_start_of(The::AfterChained, 1));
    });
    finds("not followed up once", |world| world.of(The::Quick).job.shape = Shape::Chained);
}

#[test]
fn what_was_acknowledged_is_there_once() {
    finds("acknowledged and lost", |world| {
        world.stored.commands.remove(&The::Quick.id());
        world.forget(is_start_of(The::Quick, 1));
    });
    let again = Uuid::from_u128(200);
    finds("appended more than once", |world| {
        let end = world.of(The::Quick).ended.clone();
        world.store(again, number(The::Quick), "quick", Shape::Single);
        world.note(33, "a", Entry::Started { id: again, attempt: 1, is_deaf: false });
        world.stored.commands.get_mut(&again).expect("just stored").ended =
            end.map(|end| ended::Model { id: again, ..end });
    });
    finds("acknowledged under the id of another", |world| world.of(The::Quick).job.number = SERIAL + 101);
    finds("refused and there", |world| {
        let (number, id) = (number(The::Quick), The::Effect.id());
        world.note(61, "p", Entry::Appended { number, id, is_new: false, shape: Shape::Unique });
    });
}

#[test]
fn what_nobody_appended_is_not_there() {
    let is_of_quick =
        |entry: &Entry| matches!(entry, Entry::Appended { number: other, .. } if *other == number(The::Quick));
    finds("there without having been appended", |world| world.forget(is_of_quick));
    let mut world = World::sound();
    world.forget(|entry| is_of_quick(entry) || matches!(entry, Entry::Left { .. }));
    world.note(62, "rig", Entry::Died { process: "p".to_owned(), aborted: false });
    assert_eq!(world.judged(), [""; 0], "its producer died before it could say so");
    finds("ran without having been appended", |world| {
        world.note(33, "a", Entry::Started { id: Uuid::from_u128(100), attempt: 1, is_deaf: false });
    });
}

#[test]
fn what_was_rolled_back_is_not_there() {
    finds("rolled back and there", |world| world.of(The::Quick).job.shape = Shape::RolledBack);
    finds("rolled back and there", |world| {
        world.note(60, "p", Entry::RolledBack { number: SERIAL + 103, id: The::Quick.id() });
    });
    let mut world = World::sound();
    world.stored.orders.insert(SERIAL + 100);
    assert_eq!(world.judged(), ["an order that survived its rollback", "an order without its command"]);
}

#[test]
fn orders_and_their_commands_come_together() {
    finds("a command without its order", |world| world.stored.orders.clear());
    finds("an order without its command", |world| {
        world.stored.orders.insert(SERIAL + 101);
    });
}

#[test]
fn a_unique_key_has_one_command_at_a_time() {
    finds("two with one unique key", |world| {
        world.dates(The::FirstUnique, 1, 3);
    });
    let mut world = World::sound();
    world.dates(The::FirstUnique, 5, 9).dates(The::SecondUnique, 5, 5);
    assert_eq!(world.judged(), [""; 0], "one of them ended in the instant in which the other was appended");
}

#[test]
fn two_executions_do_not_believe_in_their_leases_at_once() {
    finds("two live leases", |world| world.forget(|entry| matches!(entry, Entry::Paused { .. })));
    finds("two live leases", |world| world.forget(|entry| matches!(entry, Entry::Told { .. })));
    finds("two live leases", |world| {
        world.forget(|entry| matches!(entry, Entry::Told { .. }));
        world.note(56, "b", Entry::Told { id: The::Slept.id(), attempt: 1 });
    });
    // Beside one that is not its neighbor.
    finds("two live leases", |world| {
        world.start(31, "c", The::Failing, 0).note(35, "c", Entry::Ended { id: The::Failing.id(), attempt: 0 });
    });
    finds("attempts that do not grow", |world| {
        world.start(58, "a", The::Slept, 1).note(59, "a", Entry::Ended { id: The::Slept.id(), attempt: 1 });
    });
}

#[test]
fn one_that_was_claimed_before_a_pause_may_begin_behind_it() {
    let mut world = World::sound();
    world.forget(is_start_of(The::Slept, 1));
    world.start(51, "b", The::Slept, 1);
    assert_eq!(world.judged(), [""; 0]);
}

#[test]
fn nothing_begins_before_its_time() {
    finds("began before its time", |world| world.of(The::Quick).job.not_before = 33 * SECOND);
}

#[test]
fn nothing_begins_after_a_cancel() {
    finds("began after it was canceled", |world| {
        world.end(The::Canceled, "canceled", 1).run("a", The::Canceled, 1);
    });
    let mut world = World::sound();
    world.forget(|entry| matches!(entry, Entry::Canceled { .. }));
    world.note(21, "p", Entry::Canceled { id: The::Canceled.id(), at_once: false, attempt: Some(1) });
    world.end(The::Canceled, "canceled", 1).run("a", The::Canceled, 1);
    assert_eq!(world.judged(), [""; 0], "it was running, and its handler began a moment later");
    finds("began after it was canceled", |world| {
        world.forget(|entry| matches!(entry, Entry::Canceled { .. }));
        world.note(21, "p", Entry::Canceled { id: The::Canceled.id(), at_once: false, attempt: Some(1) });
        world.end(The::Canceled, "canceled", 2).run("a", The::Canceled, 2);
    });
    finds("canceled and not so ended", |world| {
        let id = The::Within.id();
        world.note(50, "p", Entry::CancelAsked { id });
        world.note(51, "p", Entry::Canceled { id, at_once: true, attempt: Some(0) });
    });
}

#[test]
fn only_the_deadly_end_their_process() {
    finds("a process that aborted without reason", |world| {
        world.note(70, "rig", Entry::Died { process: "a".to_owned(), aborted: true });
    });
}
