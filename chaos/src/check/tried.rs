//! How much of each thing was done: what never happened has broken nothing, and shown nothing.

use super::stored::Stored;
use crate::crowd::Counts;
use crate::job::{AFTER_FAILURE, AFTER_SUCCESS, FAILING, FATAL, FLAKY, SNOOZING};
use crate::ledger::{Entry, Record, Shape};

const APPENDED: [&str; 6] = [SINGLE, WITHIN, BULK, UNIQUE, CHAINED, DELAYED];
const SINGLE: &str = "appended alone";
const WITHIN: &str = "appended within a transaction";
const BULK: &str = "appended at once with others";
const UNIQUE: &str = "appended with a unique key";
const CHAINED: &str = "appended with follow-ups";
const DELAYED: &str = "appended with a delay";
const ROLLED_BACK: &str = "rolled back";
const REFUSED: &str = "refused for a unique key";
const UNSURE: &str = "appends without an answer";
const EFFECTED: &str = "effects that were acknowledged";
const CANCELED_BEFORE: &str = "canceled while they waited";
const CANCELED_DURING: &str = "told to be canceled while they ran";
const AFTER_COMPLETION: &str = "follow-ups of completions";
const AFTER_OTHERS: &str = "follow-ups of failures and cancels";
const SNOOZED: &str = "completed behind snoozes";
const RETRIED: &str = "completed behind errors";
const PANICKED: &str = "panics";
const TIMED_OUT: &str = "timeouts";
const EXHAUSTED: &str = "failed with their retries used up";
const PARKED: &str = "parked for killing their process";

/// What must have been done among so many acknowledged commands: as the load deals them, thirty times, the rarest
/// seventeen, so that none at all is no chance.
const DONE: [(&str, usize); 19] = [
    (SINGLE, 3_000),
    (WITHIN, 3_000),
    (BULK, 3_000),
    (UNIQUE, 3_000),
    (CHAINED, 3_000),
    (DELAYED, 3_000),
    (ROLLED_BACK, 3_000),
    (EFFECTED, 3_000),
    (AFTER_COMPLETION, 3_000),
    (SNOOZED, 10_000),
    (RETRIED, 10_000),
    (PANICKED, 10_000),
    (REFUSED, 30_000),
    (TIMED_OUT, 30_000),
    (EXHAUSTED, 30_000),
    // Where every answer takes long, a cancel seldom comes in time.
    (CANCELED_BEFORE, 50_000),
    (AFTER_OTHERS, 50_000),
    (CANCELED_DURING, 150_000),
    (PARKED, 500_000),
];

/// What the processes have written down.
pub(super) fn noted(records: &[Record]) -> Counts {
    let names = APPENDED.into_iter().chain([ROLLED_BACK, REFUSED, UNSURE, EFFECTED, CANCELED_BEFORE, CANCELED_DURING]);
    let mut counts: Counts = names.map(|name| (name, 0)).collect();
    for record in records {
        let name = match &record.entry {
            Entry::Appended { refused: Some(_), .. } => REFUSED,
            Entry::Appended { shape, .. } => match shape {
                Shape::Single => SINGLE,
                Shape::Within => WITHIN,
                Shape::Bulk => BULK,
                Shape::Unique => UNIQUE,
                Shape::Chained => CHAINED,
                Shape::Delayed => DELAYED,
                Shape::RolledBack => continue,
            },
            Entry::RolledBack { .. } => ROLLED_BACK,
            Entry::Unsure { .. } => UNSURE,
            Entry::Effected { .. } => EFFECTED,
            Entry::Canceled { at_once: true, .. } => CANCELED_BEFORE,
            Entry::Canceled { .. } => CANCELED_DURING,
            _ => continue,
        };
        *counts.entry(name).or_default() += 1;
    }
    counts
}

/// What only the commands that are kept can tell.
pub(super) fn kept(stored: &Stored) -> Counts {
    let of = |key: &str, state: &str| {
        stored.commands.values().filter(|command| command.row.key == key && command.state() == state).count()
    };
    let attempts = |kind: &str| stored.commands.values().map(|command| command.attempts_of(kind)).sum();
    Counts::from([
        (AFTER_COMPLETION, of(AFTER_SUCCESS, "completed")),
        (AFTER_OTHERS, of(AFTER_FAILURE, "completed")),
        (SNOOZED, of(SNOOZING, "completed")),
        (RETRIED, of(FLAKY, "completed")),
        (PANICKED, attempts("panic")),
        (TIMED_OUT, attempts("timeout")),
        (EXHAUSTED, of(FAILING, "failed")),
        (PARKED, of(FATAL, "failed")),
    ])
}

/// What has not happened, of what was counted; and whether more appends than this share in a hundred got no answer.
pub(crate) fn untried(counts: &Counts, unsure: usize) -> Vec<String> {
    let count = |name: &str| counts.get(name).copied().unwrap_or(0);
    let acknowledged: usize = APPENDED.into_iter().map(count).sum();
    let asked = acknowledged + count(ROLLED_BACK) + count(REFUSED) + count(UNSURE);
    let never = DONE.iter().filter(|(name, many)| acknowledged >= *many && counts.get(name) == Some(&0));
    let never = never.map(|(name, _)| format!("nothing was tried: no command of {acknowledged} counts as {name:?}"));
    let unsure = (count(UNSURE) * 100 > asked * unsure)
        .then(|| format!("nothing was tried: {} of {asked} {UNSURE}", count(UNSURE)));
    never.chain(unsure).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_that_has_done_all_but_one_thing_is_told_of() {
        let done: Counts = DONE.iter().map(|(name, _)| (*name, 100_000)).collect();
        assert!(untried(&done, 50).is_empty());
        for (name, _) in DONE {
            let mut counts = done.clone();
            counts.insert(name, 0);
            assert_eq!(untried(&counts, 50).len(), 1, "{name}");
            counts.remove(name);
            assert!(untried(&counts, 50).is_empty(), "{name} was not counted");
        }
        let few: Counts = DONE.iter().map(|(name, _)| (*name, usize::from(*name == SINGLE) * 2_999)).collect();
        assert!(untried(&few, 50).is_empty(), "a short run");
    }

    #[test]
    fn a_run_whose_appends_got_no_answer_is_told_of() {
        let unsure = |count: usize| untried(&Counts::from([(SINGLE, 100), (UNSURE, count)]), 50);
        assert!(unsure(100).is_empty());
        assert_eq!(unsure(101).len(), 1);
    }
}
