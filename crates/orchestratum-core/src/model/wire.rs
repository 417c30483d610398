//! What is under way between the workers and the database.

use crate::model::world::{How, Token, index};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Request {
    Append { lease: Option<u8> },
    Claim { instance: u8 },
    Settle { token: Token, how: How },
    CompleteIn { token: Token },
    Extend { instance: u8 },
    Reclaim { instance: u8 },
}

/// How far a request has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Stage {
    Sent,
    /// Its transaction has looked, and not yet committed.
    Open,
    Answered(Answer),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Answer {
    /// Executed under a lease, or as asked.
    Done { attempt: u8 },
    /// Nothing was changed, or nothing leased.
    Nothing,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Message {
    pub(super) worker: u8,
    pub(super) command: u8,
    pub(super) request: Request,
    /// Whether the sender still waits for the answer.
    pub(super) wanted: bool,
    pub(super) stage: Stage,
}

/// Sent by whoever has found what a fenced instance leaves behind; nobody needs the answer.
pub(super) fn reclaim(instance: u8, command: usize) -> Message {
    let request = Request::Reclaim { instance };
    Message { worker: u8::MAX, command: index(command), request, wanted: false, stage: Stage::Sent }
}

impl Request {
    pub(super) fn appends_or_claims(&self) -> bool {
        matches!(self, Self::Claim { .. } | Self::Append { .. })
    }

    pub(super) fn leases(&self) -> bool {
        matches!(self, Self::Claim { .. } | Self::Append { lease: Some(_) })
    }

    pub(super) fn leases_to(&self, instance: u8) -> bool {
        *self == Self::Claim { instance } || *self == Self::Append { lease: Some(instance) }
    }
}

impl Message {
    pub(super) fn is_claim(&self) -> bool {
        matches!(self.request, Request::Claim { .. })
    }

    pub(super) fn is_of(&self, worker: usize) -> bool {
        self.worker == index(worker)
    }
}
