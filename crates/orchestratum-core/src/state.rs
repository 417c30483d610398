//! The life of a command as one total function: no other file decides which state follows which.
//!
//! | state | claim | extend | complete | retry | snooze | reclaim | fail | cancel |
//! |---|---|---|---|---|---|---|---|---|
//! | pending | running | - | - | - | - | - | - | canceled |
//! | blocked | - | - | - | - | - | - | - | canceled |
//! | running | - | running | completed | pending | pending | pending | failed | canceled |
//! | completed | - | - | - | pending | - | - | - | - |
//! | failed | - | - | - | pending | - | - | - | - |
//! | canceled | - | - | - | pending | - | - | - | - |
//!
//! Who raises an event: a worker *claims* what is due and *extends* what it holds; the instance that runs an
//! attempt *completes*, *retries*, *snoozes* or *fails* it; any worker *reclaims* what a dead instance held;
//! a user *cancels*, and *retries* what has ended.
//!
//! The table above is read by a test and compared with [`next`], cell by cell.

use std::fmt;

/// Where a command is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum State {
    /// Due now or at its `run_at`. A worker moves it by claiming; a user may cancel it.
    Pending,
    /// Waits for other commands to end. Reserved for workflows: nothing appends blocked commands yet.
    Blocked,
    /// One live lease exists. Its holder moves it, or whoever finds that the lease has expired.
    Running,
    /// Ended with success. An operator's retry starts it again.
    Completed,
    /// Ended without success and without retries left. An operator's retry starts it again.
    Failed,
    /// Ended because a user asked for it. An operator's retry starts it again.
    Canceled,
}

/// What may happen to a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Event {
    /// A worker takes the command under a new lease, with the next attempt number.
    Claim,
    /// The holder of the lease is alive.
    Extend,
    /// The attempt succeeded.
    Complete,
    /// The attempt failed and another one is allowed, or an operator wants an ended command to run again.
    Retry,
    /// The attempt asks to run again later, or is given back unfinished; no retry is used.
    Snooze,
    /// The lease expired and another attempt is allowed.
    Reclaim,
    /// The attempt failed for good.
    Fail,
    /// A user does not want the command any more.
    Cancel,
}

/// Moves a command from one state to the next.
///
/// # Errors
/// [`IllegalTransition`] for every pair that the table of this module leaves empty.
pub(crate) const fn next(state: State, event: Event) -> Result<State, IllegalTransition> {
    use Event as E;
    use State as S;
    match (state, event) {
        (S::Pending, E::Claim) | (S::Running, E::Extend) => Ok(S::Running),
        (S::Running, E::Complete) => Ok(S::Completed),
        (S::Running, E::Retry | E::Snooze | E::Reclaim) => Ok(S::Pending),
        (S::Running, E::Fail) => Ok(S::Failed),
        (S::Pending | S::Blocked | S::Running, E::Cancel) => Ok(S::Canceled),
        (S::Completed | S::Failed | S::Canceled, E::Retry) => Ok(S::Pending),
        (S::Pending, E::Extend | E::Complete | E::Retry | E::Snooze | E::Reclaim | E::Fail)
        | (S::Blocked, E::Claim | E::Extend | E::Complete | E::Retry | E::Snooze | E::Reclaim | E::Fail)
        | (S::Running, E::Claim)
        | (
            S::Completed | S::Failed | S::Canceled,
            E::Claim | E::Extend | E::Complete | E::Snooze | E::Reclaim | E::Fail | E::Cancel,
        ) => Err(IllegalTransition { state, event }),
    }
}

/// An event that the state does not allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the command is {state}, which does not allow {event}")]
pub struct IllegalTransition {
    /// The state the command was in.
    pub state: State,
    /// What was tried.
    pub event: Event,
}

impl State {
    /// Every state, in the order of a command's life.
    pub const ALL: [Self; 6] =
        [Self::Pending, Self::Blocked, Self::Running, Self::Completed, Self::Failed, Self::Canceled];

    /// The text stored in the database.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Blocked => "blocked",
            Self::Running => "running",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Canceled => "canceled",
        }
    }

    /// Reads the stored text; `None` for anything this program does not know.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == text)
    }

    /// Whether the command has ended: no worker will touch it again unless an operator retries it.
    #[must_use]
    pub const fn has_ended(self) -> bool {
        match self {
            Self::Completed | Self::Failed | Self::Canceled => true,
            Self::Pending | Self::Blocked | Self::Running => false,
        }
    }
}

impl Event {
    /// Every event, in the order of the module's table.
    pub const ALL: [Self; 8] =
        [Self::Claim, Self::Extend, Self::Complete, Self::Retry, Self::Snooze, Self::Reclaim, Self::Fail, Self::Cancel];

    /// The verb, as it appears in spans, documents and messages.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Claim => "claim",
            Self::Extend => "extend",
            Self::Complete => "complete",
            Self::Retry => "retry",
            Self::Snooze => "snooze",
            Self::Reclaim => "reclaim",
            Self::Fail => "fail",
            Self::Cancel => "cancel",
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads a Markdown table of transitions: the header names events, the first column names states.
    fn assert_table_matches(lines: &[&str]) {
        let cells = |line: &str| -> Vec<String> {
            let inner = line.trim().trim_matches('|');
            inner.split('|').map(|cell| cell.trim().to_owned()).collect()
        };
        let events = cells(lines[0]);
        assert_eq!(events[1..], Event::ALL.map(|event| event.to_string()));
        let rows: Vec<_> = lines[2..].iter().map(|line| cells(line)).collect();
        assert_eq!(rows.len(), State::ALL.len());
        for (row, state) in rows.iter().zip(State::ALL) {
            assert_eq!(row[0], state.as_str());
            for (cell, event) in row[1..].iter().zip(Event::ALL) {
                let expected = next(state, event).map_or("-", State::as_str);
                assert_eq!(cell, expected, "{state} × {event}");
            }
        }
    }

    #[test]
    fn table_in_the_module_doc_is_the_function() {
        let table: Vec<_> = include_str!("state.rs")
            .lines()
            .filter_map(|line| line.strip_prefix("//! "))
            .filter(|line| line.starts_with('|'))
            .collect();
        assert_table_matches(&table);
    }

    #[test]
    fn table_in_the_lifecycle_document_is_the_function() {
        let document = include_str!("../../../docs/lifecycle.md");
        let table: Vec<_> = document
            .lines()
            .skip_while(|line| !line.starts_with("| state | claim |"))
            .take_while(|line| line.starts_with('|'))
            .collect();
        assert_table_matches(&table);
    }

    #[test]
    fn every_state_reads_back_what_it_stores() {
        for state in State::ALL {
            assert_eq!(State::parse(state.as_str()), Some(state));
        }
        assert_eq!(State::parse("Pending"), None);
    }

    #[test]
    fn an_ended_command_moves_only_by_an_operators_retry() {
        for state in State::ALL.into_iter().filter(|state| state.has_ended()) {
            let legal: Vec<_> = Event::ALL.into_iter().filter(|event| next(state, *event).is_ok()).collect();
            assert_eq!(legal, [Event::Retry]);
        }
    }
}
