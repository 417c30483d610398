//! When the poller asks which lanes there are.

use std::time::Duration;

use tokio::time::Instant;

use crate::engine::lanes::{LONGEST_COST, WALK_COST};

/// When the next survey is to be made. What asks for one while another is under way asks for the next.
#[derive(Debug)]
pub(crate) struct Surveys {
    poll: Instant,
    /// Before that none is made for changes that may be this process's own.
    enough: Instant,
    /// Since when one is wanted at once.
    asked: Option<Instant>,
    changed: bool,
}

impl Surveys {
    /// The first is due at once.
    pub(crate) fn new() -> Self {
        let now = Instant::now();
        Self { poll: now, enough: now, asked: Some(now), changed: false }
    }

    pub(crate) fn ask(&mut self) {
        self.asked.get_or_insert_with(Instant::now);
    }

    /// Something has changed, and perhaps it was this process.
    pub(crate) const fn changed(&mut self) {
        self.changed = true;
    }

    /// When the next one is due.
    pub(crate) fn due(&self) -> Instant {
        let regular = if self.changed { self.enough.min(self.poll) } else { self.poll };
        self.asked.unwrap_or(regular)
    }

    pub(crate) const fn begin(&mut self) {
        (self.asked, self.changed) = (None, false);
    }

    /// The next poll, and the next survey for a change, wait so long that surveys take at most a twentieth of the time.
    pub(crate) fn ended(&mut self, begun: Instant, polling_interval: Duration) {
        let now = Instant::now();
        self.enough = now + now.duration_since(begun).min(LONGEST_COST) * WALK_COST;
        self.poll = (now + polling_interval).max(self.enough);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLL: Duration = Duration::from_secs(1);

    async fn after_one_that_took(cost: Duration) -> Surveys {
        let mut surveys = Surveys::new();
        let begun = Instant::now();
        surveys.begin();
        tokio::time::advance(cost).await;
        surveys.ended(begun, POLL);
        surveys
    }

    #[tokio::test(start_paused = true)]
    async fn what_asks_while_a_survey_is_under_way_asks_for_the_next() {
        let mut surveys = Surveys::new();
        let begun = Instant::now();
        assert!(surveys.due() <= begun);
        surveys.begin();
        assert!(surveys.due() <= begun, "nothing but the end of one puts the next one off");
        tokio::time::advance(Duration::from_millis(10)).await;
        surveys.ask();
        surveys.ended(begun, POLL);
        assert!(surveys.due() <= Instant::now());
    }

    #[tokio::test(start_paused = true)]
    async fn surveys_for_changes_and_polls_take_a_twentieth_of_the_time() {
        let mut surveys = after_one_that_took(Duration::from_millis(10)).await;
        assert_eq!(surveys.due() - Instant::now(), POLL);
        surveys.changed();
        assert_eq!(surveys.due() - Instant::now(), Duration::from_millis(200));
        surveys.begin();
        surveys.ended(Instant::now(), POLL);
        assert_eq!(surveys.due() - Instant::now(), POLL, "that was the survey for the change");
        let mut slow = after_one_that_took(Duration::from_millis(100)).await;
        assert_eq!(slow.due() - Instant::now(), 2 * POLL);
        slow.ask();
        assert_eq!(slow.due(), Instant::now());
        let stuck = after_one_that_took(Duration::from_secs(60)).await;
        assert_eq!(stuck.due() - Instant::now(), LONGEST_COST * WALK_COST);
    }
}
