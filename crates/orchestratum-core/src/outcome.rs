//! From how an attempt ended to what happens to its command: the only place that decides between retry and fail.

use std::time::Duration;

use crate::state::Event;

/// How an attempt ended, as seen by the instance that ran it or by the one that found its lease expired.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Ending {
    /// The executor returned `Ok`; the output is JSON text, `None` for `()`.
    Completed(Option<String>),
    /// The executor returned an error.
    Error(String),
    /// The executor ran past the command's timeout.
    TimedOut,
    /// The executor panicked.
    Panicked(String),
    /// The executor asked for a retry after a wait of its own choice. Uses a retry.
    RetryAfter(Duration, String),
    /// The executor, or an undecodable payload, says that trying again is useless.
    Fatal(String),
    /// The executor asked to run again later. Uses no retry.
    Snoozed(Duration),
    /// The instance shuts down, or claimed the command and never started it. Uses no retry.
    GivenBack,
    /// The executor stopped because a user canceled the command.
    Canceled,
    /// The instance that held the lease is dead, or was paused for longer than the lease.
    LostLease,
}

/// What a command may still use up, read from its row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Budget {
    /// Attempts that ended with an error, a timeout or a panic so far.
    pub(crate) failures: u32,
    /// Leases lost so far.
    pub(crate) losses: u32,
    /// Retries allowed after the first attempt.
    pub(crate) retry_count: u32,
    /// Lost leases allowed before the command is parked as failed.
    pub(crate) max_losses: u32,
    /// Whether a user has asked to cancel the command while it ran.
    pub(crate) cancel_requested: bool,
}

/// The kind of an unsuccessful attempt in the history.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AttemptKind {
    /// The executor returned an error, or the payload could not be read.
    Error,
    /// The executor panicked.
    Panic,
    /// The executor ran past the timeout.
    Timeout,
    /// The instance died, was cut off, or was paused for longer than its lease.
    LostLease,
}

/// What happens to the command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// The transition to make.
    pub(crate) event: Event,
    /// The wait before the command is due again, where it is due again.
    pub(crate) delay: Duration,
    /// Failures used up, this attempt included.
    pub(crate) failures: u32,
    /// Leases lost, this attempt included.
    pub(crate) losses: u32,
    /// The line for the attempt history, if the attempt deserves one.
    pub(crate) record: Option<(AttemptKind, String)>,
    /// The output of a completed command, as JSON text.
    pub(crate) output: Option<String>,
}

/// Decides what follows from an attempt.
///
/// `retry_delay` gives the wait before a retry from the number of retries used before it, and the wait after a repeated
/// loss from the number of leases lost.
/// A success counts even when a cancel was asked for: the work is done. Every other ending of a command whose
/// cancel was asked for cancels it.
pub(crate) fn decide(ending: Ending, budget: &Budget, retry_delay: impl Fn(u32) -> Duration) -> Outcome {
    let keep = Outcome {
        event: Event::Snooze,
        delay: Duration::ZERO,
        failures: budget.failures,
        losses: budget.losses,
        record: None,
        output: None,
    };
    let failed = |kind, message: String, delay: Option<Duration>| {
        let retry = budget.failures < budget.retry_count;
        Outcome {
            event: if retry { Event::Retry } else { Event::Fail },
            delay: if retry { delay.unwrap_or_else(|| retry_delay(budget.failures)) } else { Duration::ZERO },
            failures: budget.failures.saturating_add(1),
            record: Some((kind, message)),
            ..keep.clone()
        }
    };
    let outcome = match ending {
        Ending::Completed(output) => {
            return Outcome { event: Event::Complete, output, ..keep };
        }
        Ending::Error(message) => failed(AttemptKind::Error, message, None),
        Ending::TimedOut => failed(AttemptKind::Timeout, "ran past its timeout".to_owned(), None),
        Ending::Panicked(message) => failed(AttemptKind::Panic, message, None),
        Ending::RetryAfter(delay, message) => failed(AttemptKind::Error, message, Some(delay)),
        Ending::Fatal(message) => Outcome {
            event: Event::Fail,
            failures: budget.failures.saturating_add(1),
            record: Some((AttemptKind::Error, message)),
            ..keep
        },
        Ending::Snoozed(delay) => Outcome { delay, ..keep },
        Ending::GivenBack | Ending::Canceled => keep,
        Ending::LostLease => {
            let losses = budget.losses.saturating_add(1);
            let parked = losses > budget.max_losses;
            let message = if parked {
                format!("lost its lease {losses} times: it may be killing the process that runs it")
            } else {
                "lost its lease: the instance died, was cut off or was paused".to_owned()
            };
            Outcome {
                event: if parked { Event::Fail } else { Event::Reclaim },
                delay: if parked || losses == 1 { Duration::ZERO } else { retry_delay(losses) },
                losses,
                record: Some((AttemptKind::LostLease, message)),
                ..keep
            }
        }
    };
    if budget.cancel_requested { Outcome { event: Event::Cancel, delay: Duration::ZERO, ..outcome } } else { outcome }
}

/// The longest wait after a lost lease.
const MOST_APART: Duration = Duration::from_secs(600);

/// The wait of a command that has lost its lease again: at random up to two thirds of a lease, then four thirds, and so
/// on, doubled by each loss.
///
/// What was lost together would otherwise run together again: one command that kills its process would take the same
/// neighbors along until all of them have failed.
pub(crate) fn apart(lease: Duration, losses: u32, random: f64) -> Duration {
    let doubled = 2_u32.checked_pow(losses.saturating_sub(1)).and_then(|factor| (lease / 3).checked_mul(factor));
    doubled.unwrap_or(MOST_APART).min(MOST_APART).mul_f64(random.clamp(0.0, 1.0))
}

impl AttemptKind {
    /// Every kind.
    pub const ALL: [Self; 4] = [Self::Error, Self::Panic, Self::Timeout, Self::LostLease];

    /// The text stored in the database.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Panic => "panic",
            Self::Timeout => "timeout",
            Self::LostLease => "lost_lease",
        }
    }

    /// Reads the stored text; `None` for anything this program does not know.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::state::{State, next};

    fn endings() -> impl Strategy<Value = Ending> {
        let text = ".{0,8}";
        prop_oneof![
            proptest::option::of(text).prop_map(Ending::Completed),
            text.prop_map(Ending::Error),
            Just(Ending::TimedOut),
            text.prop_map(Ending::Panicked),
            (any::<Duration>(), text).prop_map(|(delay, text)| Ending::RetryAfter(delay, text)),
            text.prop_map(Ending::Fatal),
            any::<Duration>().prop_map(Ending::Snoozed),
            Just(Ending::GivenBack),
            Just(Ending::Canceled),
            Just(Ending::LostLease),
        ]
    }

    proptest! {
        #[test]
        fn every_outcome_is_a_legal_transition_of_a_running_command(
            ending in endings(), failures in any::<u32>(), losses in any::<u32>(),
            retry_count in any::<u32>(), max_losses in any::<u32>(), cancel_requested in any::<bool>(),
        ) {
            let budget = Budget { failures, losses, retry_count, max_losses, cancel_requested };
            let outcome = decide(ending, &budget, |_| Duration::ZERO);
            prop_assert!(next(State::Running, outcome.event).is_ok());
        }

        /// Guarantee 6: whatever the endings, a command that only fails or loses its lease ends within its budget.
        #[test]
        fn attempts_are_bounded(lost in proptest::collection::vec(any::<bool>(), 64), retry_count in 0u32..8, max_losses in 0u32..8) {
            let mut budget = Budget { failures: 0, losses: 0, retry_count, max_losses, cancel_requested: false };
            let mut attempts = 0;
            for lost in lost {
                let ending = if lost { Ending::LostLease } else { Ending::Error(String::new()) };
                let outcome = decide(ending, &budget, |_| Duration::ZERO);
                attempts += 1;
                (budget.failures, budget.losses) = (outcome.failures, outcome.losses);
                if outcome.event == Event::Fail { break; }
            }
            prop_assert!(attempts <= retry_count + max_losses + 1);
        }
    }

    const FRESH: Budget = Budget { failures: 0, losses: 0, retry_count: 1, max_losses: 1, cancel_requested: false };

    #[test]
    fn retries_are_counted_after_the_first_attempt() {
        let first = decide(Ending::Error("a".into()), &FRESH, |_| Duration::from_secs(7));
        assert_eq!((first.event, first.delay, first.failures), (Event::Retry, Duration::from_secs(7), 1));
        let second = decide(Ending::TimedOut, &Budget { failures: 1, ..FRESH }, |_| Duration::ZERO);
        assert_eq!(second.event, Event::Fail);
    }

    #[test]
    fn what_is_lost_again_runs_apart_and_what_is_lost_once_runs_at_once() {
        let wait = |losses| {
            decide(Ending::LostLease, &Budget { losses, max_losses: 5, ..FRESH }, |lost| {
                apart(Duration::from_secs(30), lost, 1.0)
            })
        };
        let waits = [0, 1, 2, 3, 4, 5].map(|losses| wait(losses).delay.as_secs());
        assert_eq!(waits, [0, 20, 40, 80, 160, 0]);
        assert_eq!(apart(Duration::from_secs(30), u32::MAX, 1.0), MOST_APART);
        assert_eq!(apart(Duration::from_secs(30), 3, 0.0), Duration::ZERO);
    }

    #[test]
    fn a_snooze_and_a_shutdown_use_up_nothing() {
        for ending in [Ending::Snoozed(Duration::from_secs(1)), Ending::GivenBack] {
            let outcome = decide(ending, &FRESH, |_| Duration::ZERO);
            assert_eq!((outcome.event, outcome.failures, outcome.losses), (Event::Snooze, 0, 0));
            assert_eq!(outcome.record, None);
        }
    }

    #[test]
    fn a_command_that_kills_its_process_is_parked_and_says_so() {
        let first = decide(Ending::LostLease, &FRESH, |_| Duration::ZERO);
        assert_eq!(first.event, Event::Reclaim);
        let second = decide(Ending::LostLease, &Budget { losses: 1, ..FRESH }, |_| Duration::ZERO);
        assert_eq!(second.event, Event::Fail);
        assert!(second.record.unwrap().1.contains("killing the process"));
    }

    #[test]
    fn success_wins_over_a_cancel_and_nothing_else_does() {
        let asked = Budget { cancel_requested: true, ..FRESH };
        let done = decide(Ending::Completed(None), &asked, |_| Duration::ZERO);
        assert_eq!(done.event, Event::Complete);
        for ending in [Ending::Error(String::new()), Ending::Canceled, Ending::LostLease, Ending::GivenBack] {
            assert_eq!(decide(ending, &asked, |_| Duration::ZERO).event, Event::Cancel);
        }
    }
}
