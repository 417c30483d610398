//! Whether every command can still end, wherever a history has led.
//!
//! That something can always happen is not enough: a worker that claims, is refused and claims again is never at rest.
//! From each world with a worker that is up, some history must lead to one in which all commands have ended, without
//! another fault, and without a process that is dead or paused coming back.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher as _, RandomState};

use stateright::Model as _;

use crate::model::Protocol;
use crate::model::steps::Step;
use crate::model::world::{Life, World};
use crate::state::State;

/// All worlds, numbered as they are found, and the steps between them.
#[derive(Default)]
pub(super) struct Explored {
    hasher: RandomState,
    numbers: HashMap<u64, u32>,
    /// From which world each was found first.
    parents: Vec<u32>,
    /// Whether somebody is there who has to bring each to its end.
    attended: Vec<bool>,
    ended: Vec<u32>,
    /// To and from, sorted, of the steps that take no fault and no help.
    steps: Vec<(u32, u32)>,
}

impl Explored {
    pub(super) fn new(protocol: &Protocol) -> Self {
        let mut this = Self::default();
        let mut open: VecDeque<World> = protocol.init_states().into();
        open.iter().for_each(|world| {
            this.number(world, 0);
        });
        let (mut from, mut steps) = (0, Vec::new());
        while let Some(world) = open.pop_front() {
            protocol.actions(&world, &mut steps);
            for step in steps.drain(..) {
                let Some(next) = protocol.next_state(&world, step) else { continue };
                let (to, is_new) = this.number(&next, from);
                if next.left == world.left && !matches!(step, Step::Restart { .. } | Step::Resume { .. }) {
                    this.steps.push((to, from));
                }
                if is_new {
                    open.push_back(next);
                }
            }
            from += 1;
        }
        this.steps.sort_unstable();
        this
    }

    /// The number of a world, and whether it has just been given.
    fn number(&mut self, world: &World, parent: u32) -> (u32, bool) {
        let next = u32::try_from(self.parents.len()).expect("more worlds than memory");
        let number = *self.numbers.entry(self.hasher.hash_one(world)).or_insert(next);
        if number == next {
            self.parents.push(parent);
            self.attended.push(world.workers.iter().any(|worker| worker.life == Life::Up));
            if world.rows.iter().all(|row| row.state.is_some_and(State::has_ended)) {
                self.ended.push(number);
            }
        }
        (number, number == next)
    }

    pub(super) fn count(&self) -> usize {
        self.parents.len()
    }

    /// A shortest history to a world out of which none leads to the end.
    pub(super) fn way_into_a_trap(&self, protocol: &Protocol) -> Option<Vec<Step>> {
        let mut leads_to_the_end = vec![false; self.count()];
        let mut open = self.ended.clone();
        while let Some(to) = open.pop() {
            if !std::mem::replace(&mut leads_to_the_end[to as usize], true) {
                let first = self.steps.partition_point(|step| step.0 < to);
                let into = self.steps[first..].iter().take_while(|step| step.0 == to);
                open.extend(into.map(|step| step.1).filter(|from| !leads_to_the_end[*from as usize]));
            }
        }
        let trap =
            std::iter::zip(&self.attended, leads_to_the_end).position(|(attended, leads)| *attended && !leads)?;
        let way = std::iter::successors(Some(trap), |number| (*number > 0).then(|| self.parents[*number] as usize));
        let mut way: Vec<usize> = way.collect();
        way.reverse();
        let mut world = protocol.init_states().pop()?;
        let step_to = |number: &usize| {
            let mut steps = Vec::new();
            protocol.actions(&world, &mut steps);
            let next = steps.into_iter().find_map(|step| {
                let next = protocol.next_state(&world, step)?;
                (self.numbers[&self.hasher.hash_one(&next)] as usize == *number).then_some((step, next))
            });
            let (step, next) = next?;
            world = next;
            Some(step)
        };
        way[1..].iter().map(step_to).collect()
    }
}
