use std::collections::BTreeSet;

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
    lanes.learn(Instant::now(), [head("a", 0, -5), head("b", 7, 0), head("c", 9, 60_000_000)].into_iter());
    assert_eq!(empty(&mut lanes).lane, lane("b", 7));
    assert_eq!(empty(&mut lanes).lane, lane("a", 0));
    assert!(lanes.pick(|_| 10).is_none());
    assert!(lanes.next_due().is_some());
}

#[test]
fn lanes_of_one_priority_take_turns_and_each_goes_on_where_it_was() {
    let mut lanes = Lanes::default();
    lanes.learn(Instant::now(), [head("a", 0, -5), head("b", 0, -5)].into_iter());
    let first = full(&mut lanes, 3).lane;
    let second = full(&mut lanes, 4).lane;
    assert_ne!(first, second);
    assert_eq!(picked(&mut lanes, 1), Some((first, Timestamp::from_micros(3))));
    assert_eq!(picked(&mut lanes, 1), Some((second, Timestamp::from_micros(4))));
}

#[tokio::test(start_paused = true)]
async fn a_streak_leaves_a_turn_to_a_lane_that_each_survey_finds_due() {
    let mut lanes = Lanes::default();
    lanes.learn(Instant::now(), [head("a", 0, 0)].into_iter());
    full(&mut lanes, 1);
    let mut turns = Vec::new();
    for last in 2..6 {
        tokio::time::advance(Duration::from_millis(10)).await;
        lanes.learn(Instant::now(), [head("a", 0, 0), head("b", 0, 0)].into_iter());
        tokio::time::advance(Duration::from_millis(1)).await;
        turns.push(full(&mut lanes, last).lane);
    }
    assert!(turns.contains(&lane("b", 0)), "{turns:?}");
}

#[test]
fn only_a_streak_is_claimed_from_twice_at_once() {
    let mut lanes = Lanes::default();
    lanes.learn(Instant::now(), [head("a", 0, 0)].into_iter());
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
    lanes.learn(Instant::now(), [head("a", 0, 0)].into_iter());
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
    lanes.learn(Instant::now(), [head("a", 0, 0)].into_iter());
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
    lanes.learn(Instant::now(), [head("a", 0, 0)].into_iter());
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
    lanes.learn(Instant::now(), [head("a", 0, -5)].into_iter());
    let pick = lanes.pick(|_| 2).unwrap();
    assert_eq!(pick.after, Timestamp::from_micros(-5));
    assert!(lanes.took(&pick, 1, Some(Timestamp::from_micros(-5))), "as good as a look from the start");
}

#[test]
fn a_hint_after_a_survey_is_looked_for_from_the_start() {
    let mut lanes = Lanes::default();
    lanes.learn(Instant::now(), [head("a", 0, 60_000_000)].into_iter());
    lanes.hint(lane("a", 0), Instant::now());
    assert_eq!(picked(&mut lanes, 1), Some((lane("a", 0), FROM_START)), "it may be due before the head");
}

#[test]
fn a_survey_and_a_hint_do_not_send_a_streak_back_to_its_start() {
    let mut lanes = Lanes::default();
    lanes.learn(Instant::now(), [head("a", 0, 0)].into_iter());
    full(&mut lanes, 5);
    lanes.learn(Instant::now(), [head("a", 0, 0)].into_iter());
    lanes.hint(lane("a", 0), Instant::now());
    assert_eq!(picked(&mut lanes, 1), Some((lane("a", 0), Timestamp::from_micros(5))));
}

#[test]
fn a_hint_that_comes_during_a_claim_is_not_forgotten_when_the_claim_finds_nothing() {
    let mut lanes = Lanes::default();
    lanes.learn(Instant::now(), [head("a", 0, 0)].into_iter());
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
    lanes.learn(Instant::now(), [head("a", 0, 0)].into_iter());
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
    lanes.learn(Instant::now(), [head("a", 9, 0), Head { lane: other.clone(), ..head("b", 0, 0) }].into_iter());
    assert_eq!(lanes.waiting_for_room(), ["default", "mail"]);
    assert_eq!(lanes.pick(|queue| usize::from(queue == "mail")).unwrap().lane, other);
}

#[test]
fn a_claim_of_large_payloads_takes_few() {
    let mut lanes = Lanes::default();
    lanes.learn(Instant::now(), [head("a", 0, 0)].into_iter());
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

/// A lane that a survey has found and a claim has emptied, and the instant at which the next survey begins.
async fn emptied_before_a_survey(lanes: &mut Lanes) -> Instant {
    lanes.learn(Instant::now(), [head("a", 0, 0)].into_iter());
    empty(lanes);
    tokio::time::advance(REMEMBER * 2).await;
    let begun = Instant::now();
    tokio::time::advance(Duration::from_millis(10)).await;
    begun
}

#[tokio::test(start_paused = true)]
async fn what_is_hinted_at_while_a_survey_is_under_way_is_looked_at_whatever_it_has_found() {
    for found in [None, Some(head("a", 0, 60_000_000))] {
        let mut lanes = Lanes::default();
        let begun = emptied_before_a_survey(&mut lanes).await;
        lanes.hint(lane("a", 0), Instant::now());
        lanes.hint(lane("b", 0), Instant::now());
        lanes.learn(begun, found.into_iter());
        let (one, other) = (empty(&mut lanes), empty(&mut lanes));
        assert_eq!(BTreeSet::from([one.lane, other.lane]), BTreeSet::from([lane("a", 0), lane("b", 0)]));
        assert_eq!([one.after, other.after], [FROM_START; 2]);
    }
}

#[tokio::test(start_paused = true)]
async fn an_announcement_that_an_earlier_look_serves_keeps_that_look_whatever_a_survey_has_found() {
    let mut lanes = Lanes::default();
    let hesitation = Duration::from_secs(1);
    lanes.learn(Instant::now(), [head("a", 0, 0)].into_iter());
    empty(&mut lanes);
    for _ in 0..BAD_LUCK {
        tokio::time::advance(Duration::from_millis(1)).await;
        lanes.announced(&lane("a", 0), Instant::now(), Duration::ZERO);
        empty(&mut lanes);
    }
    lanes.announced(&lane("a", 0), Instant::now(), hesitation);
    tokio::time::advance(Duration::from_nanos(1)).await;
    let begun = Instant::now();
    tokio::time::advance(Duration::from_nanos(1)).await;
    lanes.announced(&lane("a", 0), Instant::now(), hesitation);
    lanes.learn(begun, std::iter::empty());
    tokio::time::advance(hesitation).await;
    assert_eq!(empty(&mut lanes).lane, lane("a", 0));
}

#[tokio::test(start_paused = true)]
async fn a_survey_forgets_what_was_hinted_at_before_it() {
    let mut lanes = Lanes::default();
    lanes.hint(lane("a", 0), Instant::now());
    tokio::time::advance(Duration::from_millis(10)).await;
    lanes.learn(Instant::now(), std::iter::empty());
    assert!(lanes.pick(|_| 1).is_none());
}

#[tokio::test(start_paused = true)]
async fn a_claim_that_fails_while_a_survey_is_under_way_is_made_again() {
    let mut lanes = Lanes::default();
    lanes.learn(Instant::now(), [head("a", 0, 0)].into_iter());
    let pick = lanes.pick(|_| 1).unwrap();
    tokio::time::advance(Duration::from_millis(10)).await;
    let begun = Instant::now();
    tokio::time::advance(Duration::from_millis(10)).await;
    lanes.failed(&pick);
    lanes.learn(begun, std::iter::empty());
    assert_eq!(empty(&mut lanes).lane, lane("a", 0));
}

#[tokio::test(start_paused = true)]
async fn what_a_survey_finds_first_while_a_claim_is_under_way_hides_nothing_that_is_due() {
    let mut lanes = Lanes::default();
    let begun = Instant::now();
    lanes.hint(lane("a", 0), Instant::now());
    let pick = lanes.pick(|_| 1).unwrap();
    lanes.learn(begun, [head("a", 0, 60_000_000)].into_iter());
    lanes.took(&pick, 1, Some(Timestamp::from_micros(1)));
    tokio::time::advance(LOOK_FROM_START * 2).await;
    assert_eq!(picked(&mut lanes, 1), Some((lane("a", 0), FROM_START)));
}
