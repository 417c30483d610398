//! A sound history, spoiled in one way after the other: each kind of violation is found, and nothing else.

mod world;

use orchestratum_core::entity::ended;
use uuid::Uuid;

use crate::job::{AFTER_FAILURE, AFTER_SUCCESS, LONG};
use crate::ledger::{End, Entry, Shape};
use world::{SECOND, SERIAL, The, World, is_start_of, number, refused};

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
    finds("ended as it should not", |world| world.of(The::Quick).row.key = "failing".to_owned());
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
    finds("failed with retries left", |world| world.of(The::Failing).row.retry_count = 3);
    finds("killed its process for ever", |world| world.of(The::Deadly).row.key = "fatal".to_owned());
    finds("a failure that was not counted", |world| {
        world.start(20, "a", The::Quick, 0).finish(21, "a", The::Quick, 0, End::Failed);
    });
    let mut world = World::sound();
    let effect = The::Effect.id();
    world.forget(|entry| matches!(entry, Entry::Ended { id, .. } | Entry::Effected { id, .. } if *id == effect));
    world.finish(33, "a", The::Effect, 1, End::Failed);
    assert_eq!(world.judged(), [""; 0], "its commit went well, and nobody heard of it");
}

#[test]
fn what_is_completed_has_succeeded() {
    let is_end = |the: The| move |entry: &Entry| matches!(entry, Entry::Ended { id, .. } if *id == the.id());
    finds("completed without success", |world| world.forget(is_end(The::Quick)));
    finds("completed without success", |world| {
        world.forget(is_end(The::Quick));
        world.finish(33, "a", The::Quick, 1, End::Stopped);
    });
    let mut world = World::sound();
    world.forget(is_end(The::Quick));
    world.finish(33, "a", The::Quick, 1, End::Failed);
    assert_eq!(world.judged(), ["a failure that was not counted", "completed without success"]);
    finds("completed before its handler had ended", |world| {
        world.dates(The::Quick, 1, 31);
    });
    let mut world = World::sound();
    world.forget(is_end(The::Quick));
    world.note(33, "a", Entry::Told { id: The::Quick.id(), attempt: 1 });
    world.finish(34, "a", The::Quick, 1, End::Succeeded);
    assert_eq!(world.judged(), [""; 0], "it was told to stop, and had done its work");
    let mut world = World::sound();
    world.forget(is_end(The::Effect));
    world.dates(The::Effect, 1, 31);
    assert_eq!(world.judged(), [""; 0], "it completed its command itself, and its process died");
}

#[test]
fn innocents_may_be_parked_and_the_bad_need_not() {
    let mut world = World::sound();
    park(&mut world);
    world.of(The::Quick).row.key = LONG.to_owned();
    assert_eq!(world.judged(), [""; 0]);
    finds("innocents that were parked", park);
}

fn park(world: &mut World) {
    for attempt in 1..=6 {
        world.fail(The::Quick, attempt, "lost_lease");
    }
    world.end(The::Quick, "failed", 6);
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
    finds("a completion that was acknowledged and lost", |world| {
        world.note(33, "a", Entry::Effected { id: The::Effect.id(), attempt: 0 });
    });
    finds("a completion that was acknowledged and lost", |world| {
        world.note(33, "a", Entry::Effected { id: The::Canceled.id(), attempt: 0 });
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
        world.note(34, "a", Entry::Ended { id: again, attempt: 1, end: End::Succeeded });
        world.stored.commands.get_mut(&again).expect("just stored").ended =
            end.map(|end| ended::Model { id: again, ..end });
    });
    finds("acknowledged under the id of another", |world| world.of(The::Quick).job.number = SERIAL + 101);
    finds("refused and there", |world| {
        let (number, id) = (number(The::Quick), The::FirstUnique.id());
        world.note(61, "p", Entry::Appended { number, id, shape: Shape::Unique, refused: refused("key", 0) });
    });
}

#[test]
fn an_append_is_refused_for_a_live_command_with_its_key_alone() {
    let refuse = |world: &mut World, id: Uuid, key: &str, asked: u64| {
        let (number, refused) = (SERIAL + 104, refused(key, asked));
        world.note(61, "p", Entry::Appended { number, id, shape: Shape::Unique, refused });
    };
    finds("refused for another key", |world| refuse(world, The::Quick.id(), "key", 0));
    finds("refused for another key", |world| refuse(world, The::FirstUnique.id(), "another", 0));
    finds("refused for one that had ended", |world| refuse(world, The::FirstUnique.id(), "key", 60));
    finds("acknowledged and lost", |world| refuse(world, Uuid::from_u128(300), "key", 0));
}

#[test]
fn what_is_appended_at_once_is_there_as_a_whole() {
    finds("a part of a batch", |world| world.of(The::Quick).job.batch = Some(SERIAL));
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
    let died_with = |under_way: &[The]| {
        let mut world = World::sound();
        let numbers: Vec<u64> = under_way.iter().map(|the| number(*the)).collect();
        world.forget(|entry| match entry {
            Entry::Appended { number, .. } => numbers.contains(number),
            entry => matches!(entry, Entry::Left { .. }),
        });
        world.note(62, "rig", Entry::Died { process: "p".to_owned(), aborted: false });
        world.judged()
    };
    let four = [The::Quick, The::Effect, The::Within, The::Chained];
    assert_eq!(died_with(&four), [""; 0], "one of each of its tasks, and a follow-up");
    let five = [&four[..], &[The::Slept]].concat();
    assert_eq!(died_with(&five), ["there without having been appended"]);
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
        world.dates(The::FirstUnique, 1, 41);
    });
    let mut world = World::sound();
    world.dates(The::FirstUnique, 35, 39).dates(The::SecondUnique, 35, 35);
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
    finds("two live leases", |world| world.leased = 10 * SECOND);
    // Beside one that is not its neighbor.
    finds("two live leases", |world| {
        world.start(31, "c", The::Failing, 0).finish(35, "c", The::Failing, 0, End::Stopped);
    });
    finds("attempts that do not grow", |world| {
        world.start(58, "a", The::Slept, 1).finish(59, "a", The::Slept, 1, End::Stopped);
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
fn what_has_failed_or_snoozes_waits() {
    let ends = |world: &mut World, the: The, end: End| {
        world.forget(|entry| matches!(entry, Entry::Ended { id, attempt: 1, .. } if *id == the.id()));
        world.finish(34, "a", the, 1, end);
    };
    finds("run again too soon", |world| ends(world, The::Failing, End::Failed));
    let snoozing = |world: &mut World| {
        world.of(The::Quick).row.key = "snoozing".to_owned();
        world.run("a", The::Quick, 2).end(The::Quick, "completed", 2);
        ends(world, The::Quick, End::Stopped);
    };
    finds("run again too soon", |world| snoozing(world));
    let mut world = World::sound();
    snoozing(&mut world);
    world.fail(The::Quick, 1, "lost_lease");
    assert_eq!(world.judged(), [""; 0], "its snooze was never written down");
    // From the second in which its first attempt begins until it is over; the second one begins at 34.
    let stuck = |begun: u64| {
        let mut world = World::sound();
        world.of(The::Failing).row.key = "stuck".to_owned();
        world.of(The::Failing).attempts.iter_mut().for_each(|line| line.kind = "timeout".to_owned());
        world.forget(is_start_of(The::Failing, 1));
        world.start(begun, "a", The::Failing, 1);
        ends(&mut world, The::Failing, End::Stopped);
        world.judged()
    };
    assert_eq!(stuck(33), ["run again too soon"]);
    assert_eq!(stuck(32), [""; 0], "the housekeeper may have ended it before its end was noted");
    let mut world = World::sound();
    ends(&mut world, The::Failing, End::Failed);
    world.forget(is_start_of(The::Failing, 2));
    world.start(35, "a", The::Failing, 2).start(34, "b", The::Failing, 0);
    world.note(33, "rig", Entry::Paused { process: "b".to_owned() });
    world.note(34, "b", Entry::Told { id: The::Failing.id(), attempt: 0 });
    assert_eq!(world.judged(), [""; 0], "what began behind it was claimed before");
}

#[test]
fn what_follows_comes_behind() {
    finds("followed up too soon", |world| {
        world.forget(is_start_of(The::AfterChained, 1));
        world.start(32, "a", The::AfterChained, 1);
    });
    let mut world = World::sound();
    world.forget(is_start_of(The::AfterChained, 1));
    world.start(32, "a", The::AfterChained, 1).of(The::Chained).row.key = "effect".to_owned();
    world.stored.effects.insert(The::Chained.id(), 1);
    assert_eq!(world.judged(), [""; 0], "its handler had completed it and went on");
    let moved = |world: &mut World, the: The, second: u64| {
        world.forget(is_start_of(the, 1));
        world.start(second, "a", the, 1);
    };
    finds("followed up too soon", |world| moved(world, The::AfterFailing, 36));
    finds("followed up too soon", |world| moved(world, The::AfterCanceled, 19));
}

#[test]
fn a_lease_is_lost_for_a_reason_where_nothing_disturbs_the_database() {
    let lost = |leased: u64| {
        let mut world = World::sound();
        world.leased = leased;
        world.fail(The::Quick, 1, "lost_lease");
        world.judged()
    };
    assert_eq!(lost(1), ["a lease that was lost without a reason"]);
    let long_ago = |from: u64, to: u64| {
        let mut world = World::sound();
        world.leased = 1;
        world.note(from, "rig", Entry::Starved { process: "a".to_owned() });
        world.note(to, "rig", Entry::Fed { process: "a".to_owned() });
        world.fail(The::Quick, 1, "lost_lease");
        world.judged()
    };
    let paused_while_starved = |resumed: u64| {
        let mut world = World::sound();
        world.leased = 1;
        world.note(2, "rig", Entry::Starved { process: "a".to_owned() });
        world.note(3, "rig", Entry::Paused { process: "a".to_owned() });
        world.note(4, "rig", Entry::Fed { process: "a".to_owned() });
        world.note(resumed, "rig", Entry::Resumed { process: "a".to_owned() });
        world.fail(The::Quick, 1, "lost_lease");
        world.judged()
    };
    assert_eq!(paused_while_starved(5), ["a lease that was lost without a reason"]);
    assert_eq!(paused_while_starved(31), [""; 0]);
    assert_eq!(long_ago(2, 3), ["a lease that was lost without a reason"]);
    assert_eq!(long_ago(2, 31), [""; 0]);
    assert_eq!(lost(0), [""; 0], "the server may have been away");
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
    let without_memory = |until: u64| {
        let mut world = World::sound();
        world.note(68, "rig", Entry::Starved { process: "a".to_owned() });
        world.note(until, "rig", Entry::Fed { process: "a".to_owned() });
        world.note(72, "rig", Entry::Died { process: "a".to_owned(), aborted: true });
        world.judged()
    };
    assert_eq!(without_memory(73), [""; 0], "it got no memory");
    assert_eq!(without_memory(69), ["a process that aborted without reason"]);
}

#[test]
fn what_was_done_is_counted() {
    let never = |spoil: &dyn Fn(&mut World)| {
        let mut world = World::sound();
        spoil(&mut world);
        world.never_done()
    };
    let of_sound = never(&|_| ());
    assert_eq!(of_sound.len(), 7, "{of_sound:?}");
    let without = |spoil: &dyn Fn(&mut World)| {
        let added: Vec<&str> = never(spoil).into_iter().filter(|name| !of_sound.contains(name)).collect();
        added.join(", ")
    };
    let forgotten = |is_forgotten: fn(&Entry) -> bool| without(&|world| world.forget(is_forgotten));
    let within = forgotten(|entry| matches!(entry, Entry::Appended { shape: Shape::Within, .. }));
    assert_eq!(within, "appended within a transaction");
    assert_eq!(
        forgotten(|entry| matches!(entry, Entry::Appended { refused: Some(_), .. })),
        "refused for a unique key"
    );
    assert_eq!(forgotten(|entry| matches!(entry, Entry::RolledBack { .. })), "rolled back");
    assert_eq!(forgotten(|entry| matches!(entry, Entry::Canceled { .. })), "canceled while they waited");
    assert_eq!(forgotten(|entry| matches!(entry, Entry::Effected { .. })), "effects that were acknowledged");
    assert_eq!(without(&|world| world.of(The::AfterChained).ended = None), "follow-ups of completions");
    assert_eq!(without(&|world| world.of(The::Failing).ended = None), "failed with their retries used up");
}

/// What a sound history is judged to be by what a soak has in the end, in which ended commands are not kept.
#[track_caller]
fn soak_finds(kind: &str, spoil: impl FnOnce(&mut World)) {
    let mut world = World::sound();
    spoil(&mut world);
    assert_eq!(world.judged_by_what_is_kept(), [kind]);
}

#[test]
fn a_soak_is_judged_by_what_is_kept() {
    assert_eq!(World::sound().judged_by_what_is_kept(), [""; 0]);
    soak_finds("left live", |world| {
        world.live(The::Quick);
    });
    soak_finds("acknowledged and never run", |world| world.forget(is_start_of(The::Quick, 1)));
    soak_finds("took effect twice", |world| {
        world.stored.effects.insert(The::Effect.id(), 2);
    });
    soak_finds("an effect that was acknowledged and lost", |world| world.stored.effects.clear());
    soak_finds("two live leases", |world| world.forget(|entry| matches!(entry, Entry::Told { .. })));
}
