//! Every operation from every state, on every backend, against [`state::next`](crate::state::next).

mod plans;

use std::time::Duration;

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use sea_orm::{ConnectionTrait, DbErr, TransactionTrait};

use crate::command::{CommandId, FollowUps, NewCommand, RunAt};
use crate::harness::{World, on_every_backend, until};
use crate::instance_id::InstanceId;
use crate::instant::Timestamp;
use crate::outcome::Ending;
use crate::state::{Event, State, next};
use crate::store::append::Leases;
use crate::store::backend::Purpose;
use crate::store::claim::Lane;
use crate::store::instance::{Held, Instances};
use crate::store::settle::{Lease, Report, Settled};

use crate::store::{Store, rows_in};

const KEY: &str = "k";
const ENGINE: Purpose = Purpose::Engine { connections: 1, patience: Duration::from_secs(1) };

struct Table {
    store: Store,
    instance: InstanceId,
}

impl Table {
    async fn new(world: &World) -> Self {
        let store = Store::new(world.connect().await, false).unwrap();
        let instance = InstanceId::new();
        store.register(instance, "test", Duration::from_secs(3600)).await.unwrap();
        Self { store, instance }
    }

    fn lane(queue: &str) -> Lane {
        Lane { queue: queue.to_owned(), key: KEY.to_owned(), priority: 0 }
    }

    /// Each command has a queue of its own, so that a claim can mean just it.
    async fn append(&self, queue: &str) -> CommandId {
        self.append_with(queue, FollowUps::default()).await
    }

    async fn append_with(&self, queue: &str, follow_ups: FollowUps) -> CommandId {
        self.store.append(&[Self::command(queue, follow_ups)]).await.unwrap()[0].id
    }

    fn command(queue: &str, follow_ups: FollowUps) -> NewCommand {
        NewCommand {
            key: KEY.to_owned(),
            queue: queue.to_owned(),
            priority: 0,
            payload: "null".to_owned(),
            run_at: RunAt::AfterMicros(0),
            timeout_ms: 1_000,
            retry_count: 1_000,
            retry_policy: None,
            unique_key: None,
            follow_ups,
        }
    }

    async fn claim(&self, queue: &str) -> usize {
        let first = Timestamp::from_micros(i64::MIN);
        self.store.claim(self.instance, &Self::lane(queue), first, 10).await.unwrap().commands.len()
    }

    /// A command in the given state.
    async fn in_state(&self, state: State, queue: &str) -> CommandId {
        let id = self.append(queue).await;
        match state {
            State::Pending => {}
            State::Blocked => {
                let sql =
                    self.store.sql("UPDATE orchestratum_live SET state = 'blocked' WHERE id = ").bind(id.as_uuid());
                self.store.execute(sql).await.unwrap();
            }
            State::Running => assert_eq!(self.claim(queue).await, 1),
            State::Completed | State::Failed => {
                assert_eq!(self.claim(queue).await, 1);
                let ending = if state == State::Failed { Ending::Fatal("x".into()) } else { Ending::Completed(None) };
                assert_eq!(self.settle(self.lease(id).await, ending).await, Settled::Now(state));
            }
            State::Canceled => {
                self.store.cancel(id).await.unwrap();
            }
        }
        assert_eq!(self.state(id).await, state);
        id
    }

    async fn state(&self, id: CommandId) -> State {
        let (live, ended) = self.rows(id).await;
        assert_eq!(live + ended, 1, "a command is in exactly one of the two tables");
        self.store.get(id).await.unwrap().unwrap().state
    }

    async fn rows(&self, id: CommandId) -> (i64, i64) {
        let mut counts = [0; 2];
        for (count, table) in std::iter::zip(&mut counts, ["live", "ended"]) {
            let sql = self.store.sql(&format!("SELECT id FROM orchestratum_{table} WHERE id = ")).bind(id.as_uuid());
            *count = self.store.rows(sql).await.unwrap().len() as i64;
        }
        (counts[0], counts[1])
    }

    /// The lease that the command has, or would have if it were running.
    async fn lease(&self, id: CommandId) -> Lease {
        let attempt = self.store.get(id).await.unwrap().unwrap().attempt;
        Lease { id, attempt, instance: self.instance }
    }

    /// As another instance does it.
    async fn fence(&self) -> Instances {
        self.store.fence(InstanceId::new()).await.unwrap()
    }

    async fn held(&self, instance: InstanceId) -> Vec<Held> {
        let (held, next) = self.store.held(&[instance], None, 1_000).await.unwrap();
        assert_eq!(next, None);
        held.into_iter().map(|(_, held)| held).collect()
    }

    async fn reclaim(&self, dead: InstanceId, max_losses: u32) -> usize {
        let held = self.held(dead).await;
        self.store.take_back(dead, &held, &Ending::LostLease, (max_losses, Duration::ZERO)).await.unwrap().len()
    }

    async fn give_back(&self, held: &[Held]) {
        self.store.take_back(self.instance, held, &Ending::GivenBack, (5, Duration::ZERO)).await.unwrap();
    }

    async fn settle(&self, lease: Lease, ending: Ending) -> Settled {
        let report = Report {
            lease,
            ending,
            retry_count: 1_000,
            max_losses: 1_000,
            retry_delay: Duration::ZERO,
            follow_ups: None,
            on_success: Vec::new(),
            duration: None,
        };
        self.store.settle(&[report]).await.unwrap()[0]
    }

    /// Does what the event means, as far as the store has an operation for it. Refusals are for the caller to see in
    /// the state.
    async fn raise(&mut self, event: Event, id: CommandId, queue: &str) {
        let lease = self.lease(id).await;
        match event {
            Event::Claim => {
                self.claim(queue).await;
            }
            Event::Extend => assert!(self.store.extend(self.instance, Duration::from_secs(3600)).await.unwrap()),
            Event::Complete => {
                self.settle(lease, Ending::Completed(Some("1".into()))).await;
            }
            Event::Retry => {
                // By an attempt that failed, then by an operator: each is refused where the other is meant.
                if self.settle(lease, Ending::Error("x".into())).await == Settled::LeaseLost {
                    let _ = self.store.retry(id).await;
                }
            }
            Event::Snooze => {
                self.settle(lease, Ending::Snoozed(Duration::ZERO)).await;
            }
            Event::Fail => {
                self.settle(lease, Ending::Fatal("x".into())).await;
            }
            Event::Reclaim => {
                let dead = std::mem::replace(&mut self.instance, InstanceId::new());
                self.store.register(self.instance, "next", Duration::from_secs(3600)).await.unwrap();
                assert!(self.store.extend(dead, Duration::ZERO).await.unwrap());
                assert!(self.fence().await.fenced.contains(&dead));
                self.reclaim(dead, 1_000).await;
                assert!(!self.store.extend(dead, Duration::from_secs(1)).await.unwrap(), "fencing is final");
            }
            Event::Cancel => {
                if let Ok(crate::Canceled::Requested) = self.store.cancel(id).await {
                    self.settle(lease, Ending::Canceled).await;
                }
            }
        }
    }
}

on_every_backend! {
    /// A process that is paused in the middle of a look would otherwise stall all others on SQLite.
    async fn a_look_that_finds_nothing_waits_for_no_writer(world) {
        let table = Table::new(world).await;
        let writer = world.connect().await;
        let immediate = sea_orm::TransactionOptions {
            sqlite_transaction_mode: Some(sea_orm::SqliteTransactionMode::Immediate),
            ..Default::default()
        };
        let writing = writer.begin_with_options(immediate).await.unwrap();
        writing.execute_unprepared("DELETE FROM orchestratum_queues").await.unwrap();
        assert_eq!(table.claim("empty").await, 0);
        writing.rollback().await.unwrap();
    }

    async fn every_operation_from_every_state_does_what_the_table_says(world) {
        let mut table = Table::new(world).await;
        for state in State::ALL {
            for event in Event::ALL {
                let queue = format!("{state}-{event}");
                let id = table.in_state(state, &queue).await;
                table.raise(event, id, &queue).await;
                assert_eq!(table.state(id).await, next(state, event).unwrap_or(state), "{state} × {event}");
            }
        }
    }

    /// Guarantee 3: the attempt before, the attempt after, another instance.
    async fn a_stale_token_changes_nothing(world) {
        let table = Table::new(world).await;
        let id = table.in_state(State::Running, "q").await;
        table.settle(table.lease(id).await, Ending::Snoozed(Duration::ZERO)).await;
        table.claim("q").await;
        let lease = table.lease(id).await;
        assert_eq!(lease.attempt, 2);
        let stale = [
            Lease { attempt: 1, ..lease },
            Lease { attempt: 3, ..lease },
            Lease { instance: InstanceId::new(), ..lease },
        ];
        let endings = [
            Ending::Completed(None),
            Ending::Error("x".into()),
            Ending::TimedOut,
            Ending::Fatal("x".into()),
            Ending::Snoozed(Duration::ZERO),
            Ending::GivenBack,
            Ending::Canceled,
            Ending::LostLease,
        ];
        for stale in stale {
            for ending in &endings {
                assert_eq!(table.settle(stale, ending.clone()).await, Settled::LeaseLost, "{ending:?}");
                assert_eq!(table.state(id).await, State::Running);
            }
        }
        assert!(table.store.attempts(id).await.unwrap().is_empty());
        assert_eq!(table.settle(lease, Ending::Completed(None)).await, Settled::Now(State::Completed));
    }

    async fn a_fenced_instance_claims_nothing(world) {
        let table = Table::new(world).await;
        table.append("q").await;
        table.store.extend(table.instance, Duration::ZERO).await.unwrap();
        table.fence().await;
        assert_eq!(table.claim("q").await, 0);
    }

    async fn an_append_under_a_lease_is_a_claim_in_the_append_s_own_transaction(world) {
        let table = Table::new(world).await;
        let plain = |queue| Table::command(queue, FollowUps::default());
        let unique = NewCommand { unique_key: Some("u".to_owned()), ..plain("q") };
        for others in [vec![], vec![plain("q")], vec![plain("q"), unique]] {
            let commands: Vec<_> = std::iter::once(plain("q")).chain(others).collect();
            let first = CommandId::new();
            let ids = (0..commands.len()).map(|index| (index == 0).then_some(first)).collect();
            let leases = Leases { instance: table.instance, ids };
            let (stored, leased) = table.store.append_leased(&commands, &leases).await.unwrap();
            assert!(leased && stored[0].id == first && stored.len() == commands.len());
            assert_eq!(table.state(first).await, State::Running);
            for stored in &stored[1..] {
                assert_eq!(table.state(stored.id).await, State::Pending);
            }
            assert_eq!(table.held(table.instance).await, [Held { id: first, attempt: 1 }]);
            let lease = Lease { id: first, attempt: 1, instance: table.instance };
            let stranger = Lease { instance: InstanceId::new(), ..lease };
            assert_eq!(table.settle(stranger, Ending::Completed(None)).await, Settled::LeaseLost);
            assert_eq!(table.settle(lease, Ending::Completed(None)).await, Settled::Now(State::Completed));
        }
    }

    /// As for a claim: a fenced instance gets nothing, and neither does anybody from a paused queue. Nothing is lost.
    async fn without_the_right_to_claim_an_append_under_a_lease_only_waits(world) {
        let table = Table::new(world).await;
        let command = [Table::command("q", FollowUps::default())];
        let leases = || Leases { instance: table.instance, ids: vec![Some(CommandId::new())] };
        table.store.pause("q").await.unwrap();
        let (stored, leased) = table.store.append_leased(&command, &leases()).await.unwrap();
        assert!(!leased);
        assert_eq!(table.state(stored[0].id).await, State::Pending);
        table.store.resume("q").await.unwrap();
        assert_eq!(table.claim("q").await, 1);
        table.store.extend(table.instance, Duration::ZERO).await.unwrap();
        table.fence().await;
        let (stored, leased) = table.store.append_leased(&command, &leases()).await.unwrap();
        assert!(!leased);
        assert_eq!(table.state(stored[0].id).await, State::Pending);
    }

    /// A claim whose answer was lost is given back; canceled meanwhile, it appends what a cancel appends.
    async fn an_unheld_command_whose_cancel_was_asked_for_ends_with_its_follow_ups(world) {
        let table = Table::new(world).await;
        let after = Table::command("after", FollowUps::default());
        let id = table.append_with("q", FollowUps { failure: vec![after], ..FollowUps::default() }).await;
        assert_eq!(table.claim("q").await, 1);
        let held = table.held(table.instance).await;
        assert_eq!(table.store.cancel(id).await.unwrap(), crate::Canceled::Requested);
        table.give_back(&held).await;
        assert_eq!(table.state(id).await, State::Canceled);
        assert_eq!(table.claim("after").await, 1);
        // Again, as after a lost answer: there is nothing left to give back.
        table.give_back(&held).await;
        assert_eq!(table.claim("after").await, 0);
    }

    async fn an_expired_instance_that_nobody_has_fenced_extends_and_goes_on(world) {
        let table = Table::new(world).await;
        let id = table.in_state(State::Running, "q").await;
        table.store.extend(table.instance, Duration::ZERO).await.unwrap();
        assert!(table.store.extend(table.instance, Duration::from_secs(3600)).await.unwrap());
        assert!(table.fence().await.fenced.is_empty());
        assert_eq!(table.state(id).await, State::Running);
    }

    async fn an_instance_does_not_fence_itself(world) {
        let table = Table::new(world).await;
        table.store.extend(table.instance, Duration::ZERO).await.unwrap();
        let instances = table.store.fence(table.instance).await.unwrap();
        assert_eq!((instances.fenced.len(), instances.live), (0, 1));
        assert_eq!(table.fence().await.fenced, [table.instance]);
    }

    async fn all_that_is_leased_is_found_wherever_the_walk_is_cut(world) {
        let mut table = Table::new(world).await;
        let (mut wanted, mut instances) = (Vec::new(), Vec::new());
        for number in 0..7 {
            // The second of these is not asked about.
            if number == 4 || number == 6 {
                table.instance = InstanceId::new();
                table.store.register(table.instance, "another", Duration::from_secs(3600)).await.unwrap();
            }
            let state = if number % 3 == 1 { State::Pending } else { State::Running };
            let id = table.in_state(state, &format!("q{number}")).await;
            if number < 6 {
                instances.push(table.instance);
                wanted.extend((state == State::Running).then_some((table.instance, Held { id, attempt: 1 })));
            }
        }
        instances.dedup();
        // Nobody knows the last one, and nobody would ever ask about it.
        table.instance = InstanceId::new();
        table.store.register(table.instance, "removed by hand", Duration::from_secs(3600)).await.unwrap();
        let id = table.in_state(State::Running, "q7").await;
        table.store.unregister(table.instance, true).await.unwrap();
        wanted.push((table.instance, Held { id, attempt: 1 }));
        for window in 1..9 {
            let (mut found, mut after) = (Vec::new(), None);
            loop {
                let (held, next) = table.store.held(&instances, after, window).await.unwrap();
                assert!(held.len() <= window);
                found.extend(held);
                after = next;
                if after.is_none() {
                    break;
                }
            }
            found.sort_unstable_by_key(|(_, held)| held.id);
            assert_eq!(found, wanted);
        }
    }

    /// Random walks: whatever is tried in whatever order, a command is where the pure function says.
    async fn random_operations_follow_the_pure_function(world) {
        let mut table = Table::new(world).await;
        let mut runner = TestRunner::deterministic();
        let walks = proptest::collection::vec((0..3_usize, 0..Event::ALL.len()), 60);
        for walk in 0..4 {
            let steps = walks.new_tree(&mut runner).unwrap().current();
            let queues = [0, 1, 2].map(|command| format!("{walk}-{command}"));
            let mut commands = Vec::new();
            for queue in &queues {
                commands.push((table.append(queue).await, State::Pending, 0_u32));
            }
            for (command, event) in steps {
                let event = Event::ALL[event];
                let id = commands[command].0;
                table.raise(event, id, &queues[command]).await;
                for (index, (id, state, attempt)) in commands.iter_mut().enumerate() {
                    // A reclaim takes from all: the instance was theirs as well.
                    if index == command || event == Event::Reclaim {
                        *state = next(*state, event).unwrap_or(*state);
                    }
                    let info = table.store.get(*id).await.unwrap().unwrap();
                    assert_eq!(info.state, *state, "after {event}");
                    assert!(info.attempt >= *attempt, "the attempt number never falls");
                    *attempt = info.attempt;
                }
            }
        }
    }

    /// Of two appends the one that began first may commit last; a claim that has come to the other must still see it.
    async fn a_claim_reads_again_what_was_due_just_now(world) {
        let table = Table::new(world).await;
        let beyond = Timestamp::from_micros(i64::MAX / 4);
        until("a claim follows its append soon enough", async || {
            table.append("q").await;
            let taken = table.store.claim(table.instance, &Table::lane("q"), beyond, 10).await.unwrap();
            taken.commands.len() == 1
        })
        .await;
    }

    /// A process that is paused in the middle of a claim, or whose machine vanishes.
    async fn an_abandoned_transaction_of_the_engine_locks_nothing_for_longer_than_its_patience(world) {
        let table = Table::new(world).await;
        let id = table.in_state(State::Running, "q").await;
        table.store.extend(table.instance, Duration::ZERO).await.unwrap();
        table.fence().await;
        let engine = table.store.open(ENGINE).await.unwrap();
        let abandoned = engine.connection().begin().await.unwrap();
        // SQLite knows no locks but that of its one writer, which a transaction that has only begun does not take.
        if table.store.backend.locks_rows() {
            let sql = table.store.sql("SELECT attempt FROM orchestratum_live WHERE id = ").bind(id.as_uuid());
            rows_in(&abandoned, sql.text(" FOR UPDATE")).await.unwrap();
            assert_eq!(table.reclaim(table.instance, 5).await, 0);
        }
        until("others can reclaim", async || table.reclaim(table.instance, 5).await == 1).await;
        assert_eq!(table.state(id).await, State::Pending);
        drop(abandoned);
    }

    /// Its id lies behind those of all others, and the housekeeper does not look at what is too young.
    async fn what_was_appended_under_a_clock_that_is_ahead_is_not_kept_until_then(world) {
        let table = Table::new(world).await;
        let (kept, mut steps, mut after) = (Duration::from_secs(3_600), 0, None);
        let mut young = Vec::new();
        for number in 0..12 {
            young.push(table.in_state(State::Canceled, &format!("young-{number}")).await);
        }
        let old = table.in_state(State::Canceled, "old").await;
        let ahead = uuid::Uuid::from_u128(old.as_uuid().as_u128() + ((3 * 3_600_000) << 80));
        for (name, change) in [("commands", "priority = 1"), ("ended", "finished_at = 0")] {
            let sql = table.store.sql(&format!("UPDATE orchestratum_{name} SET {change}, id = ")).bind(ahead);
            assert_eq!(table.store.execute(sql.text(" WHERE id = ").bind(old.as_uuid())).await.unwrap(), 1);
        }
        let mut purged = 0;
        while steps == 0 || after.is_some() {
            let (count, next) = table.store.purge_kept(&[State::Canceled], kept, after, 3).await.unwrap();
            (purged, after, steps) = (purged + count, next, steps + 1);
        }
        assert_eq!((purged, steps), (1, 2), "one step to the young ones, one behind them");
        assert_eq!(table.rows(ahead.into()).await, (0, 0));
        assert_eq!(table.rows(young[11]).await, (0, 1));
    }

    async fn a_purge_leaves_alone_what_an_operator_retries_meanwhile(world) {
        let table = Table::new(world).await;
        for _ in 0..20 {
            let id = table.in_state(State::Canceled, "q").await;
            let purge = async {
                let mut purged = 0;
                // What has ended in this very millisecond is not older than nothing.
                while purged == 0 && table.rows(id).await.1 == 1 {
                    purged = table.store.purge(&[State::Canceled], Duration::ZERO, None, 10).await.unwrap().count;
                }
                purged
            };
            let (retried, purged) = tokio::join!(table.store.retry(id), purge);
            let sql = table.store.sql("SELECT id FROM orchestratum_commands WHERE id = ").bind(id.as_uuid());
            let there = table.store.rows(sql).await.unwrap().len();
            assert_eq!((there, table.rows(id).await, purged), if retried.is_ok() { (1, (1, 0), 0) } else { (0, (0, 0), 1) });
            if retried.is_ok() {
                table.store.cancel(id).await.unwrap();
                until("it is removed", async || {
                    table.store.purge(&[State::Canceled], Duration::ZERO, None, 10).await.unwrap().count == 1
                })
                .await;
            }
        }
    }
}

/// Of PostgreSQL alone: the others give up by themselves.
#[test]
fn an_insert_of_a_held_unique_key_gives_up_before_its_caller() {
    crate::harness::run(crate::harness::Backend::Postgres, async |world| {
        let table = Table::new(world).await;
        let plain = Table::command("q", FollowUps::default());
        let unique = NewCommand { unique_key: Some("key".to_owned()), ..plain.clone() };
        for (command, patience) in [(plain, "0"), (unique, "25s")] {
            let transaction = table.store.connection().begin().await.unwrap();
            table.store.limit_patience(&transaction, &[command]).await.unwrap();
            let sql = table.store.sql("SELECT current_setting('lock_timeout')");
            let row = rows_in(&transaction, sql).await.unwrap().remove(0);
            assert_eq!(row.try_get_by_index::<String>(0).unwrap(), patience);
        }
    });
}

/// An append that has returned survives loss of power, which no case can bring about; and a log that a long reader has let
/// grow does not keep its size for ever.
#[test]
fn sqlite_syncs_each_commit_and_cuts_its_log_on_every_connection_of_ours() {
    const FULL: i64 = 2;
    crate::harness::run(crate::harness::Backend::Sqlite, async |world| {
        let application = crate::store::backend::connect(&world.url, Purpose::Application, false).await.unwrap();
        let application = Store::new(application, false).unwrap();
        let engine = application.open(ENGINE).await.unwrap();
        let heartbeat = application.open(Purpose::Heartbeat).await.unwrap();
        for store in [application, engine, heartbeat] {
            for (pragma, value) in [("synchronous", FULL), ("journal_size_limit", 64 * 1024 * 1024)] {
                let row = store.rows(store.sql(&format!("PRAGMA {pragma}"))).await.unwrap().remove(0);
                assert_eq!(row.try_get_by_index::<i64>(0).unwrap(), value);
            }
            let row = store.rows(store.sql("PRAGMA journal_mode")).await.unwrap().remove(0);
            assert_eq!(row.try_get_by_index::<String>(0).unwrap(), "wal");
        }
    });
}

/// Of SQLite alone, which ends a transaction by itself when the disk is full.
#[test]
fn what_is_committed_after_sqlite_has_rolled_back_by_itself_is_there() {
    crate::harness::run(crate::harness::Backend::Sqlite, async |world| {
        let table = Table::new(world).await;
        let application = crate::store::backend::connect(&world.url, Purpose::Application, false).await.unwrap();
        for store in [table.store.open(ENGINE).await.unwrap(), Store::new(application, false).unwrap()] {
            // The first leaves the driver believing in a transaction; the second would be a savepoint that stays open.
            // Often enough for every connection of the pool.
            for sql in ["ROLLBACK", "SELECT 1"].into_iter().flat_map(|sql| [sql; 12]) {
                let refused = store.write(|transaction| {
                    Box::pin(async move {
                        transaction.execute_unprepared(sql).await?;
                        Err::<(), _>(DbErr::Custom("refused".to_owned()).into())
                    })
                });
                refused.await.unwrap_err();
            }
            for _ in 0..12 {
                let appended = store.append(&[Table::command("q", FollowUps::default())]).await.unwrap();
                assert!(table.store.get(appended[0].id).await.unwrap().is_some(), "acknowledged and lost");
            }
        }
    });
}
